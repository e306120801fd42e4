// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* cgroup/sock_create: no raw IP sockets unless a policy grants `rawSockets`, none of MPTCP where a rule asks for TLS or
 * HTTP, and who made a stream socket (L7).
 * cgroup/sock_release: the last counters of a promoted socket.
 *
 * Return 1: goes on; 0 (sock_create): EPERM, or EPROTONOSUPPORT of MPTCP, where the kernel lets programs choose.
 */

/* No policy grants a family that no hook judges. */
static __always_inline __u8 judge_socket(const struct config *config, const struct endpoint *endpoint, __u8 hook)
{
	if (!endpoint || endpoint->state == STATE_PENDING)
		return agent_is_gone(config) && !config->loss_denies ? VERDICT_ALLOW : VERDICT_DENY;
	if (endpoint->state == STATE_UNMANAGED)
		return VERDICT_ALLOW;
	if (hook == HOOK_SOCK_CREATE && (endpoint->flags & ENDPOINT_RAW_SOCKETS))
		return VERDICT_ALLOW;
	return endpoint->flags & ENDPOINT_AUDIT_SOCKETS ? VERDICT_AUDIT : VERDICT_DENY;
}

/* May this process have a socket that needs a policy's permission? A refusal is reported. */
static __always_inline int may_have_socket(__u8 hook, __u8 family, __u8 protocol)
{
	__u64 leaf = bpf_get_current_cgroup_id();
	struct config *config = configuration();

	if (!config)
		return 0;
	struct endpoint *endpoint = endpoint_of_task(config, leaf);

	__u8 verdict = judge_socket(config, endpoint, hook);

	if (verdict == VERDICT_ALLOW)
		return 1;
	if (!endpoint) {
		ask_agent(leaf, bpf_get_current_ancestor_cgroup_id(config->pod_level[0]),
			  bpf_get_current_ancestor_cgroup_id(config->pod_level[1]), hook);
		return 0;
	}
	struct rule rule = {
		.verdict = verdict,
		.reason = hook == HOOK_SOCK_CREATE ? DROP_RAW_SOCKET : DROP_SOCKET_FAMILY,
	};
	struct event event = {
		.cgroup_id = leaf,
		.task_cgroup_id = leaf,
		.protocol = protocol,
		.direction = DIRECTION_EGRESS,
		.hook = hook,
		.family = family,
		.identity = endpoint->identity,
		.slot = endpoint->slot,
		.pid = bpf_get_current_pid_tgid() >> 32,
	};

	if (verdict == VERDICT_AUDIT) {
		record_audited_call(config, &event, &rule);
		return 1;
	}
	if (endpoint->state == STATE_PENDING)
		rule.reason = DROP_PENDING;
	record_denied_call(config, &event, &rule);
	return 0;
}

static __always_inline void note_creator(struct bpf_sock *sk)
{
	struct creator made = {
		.cookie = bpf_get_socket_cookie(sk),
		.cgroup_id = bpf_get_current_cgroup_id(),
#ifndef HAVE_SKB_NETNS
		.network = bpf_get_netns_cookie(sk),
#endif
	};
	int index = made.cookie & (CREATOR_SLOTS - 1);
	struct creator *creator = creators.lookup(&index);

	made.seal = seal_of(&made);
	if (creator)
		*creator = made;
}

/* Its hello would be judged like any other, but who has such a socket is not woken when its connection is ended. What
 * the application is told makes it take plain TCP.
 */
static __always_inline int may_have_mptcp(void)
{
	struct config *config = configuration();
	struct endpoint *endpoint = config ? endpoint_of_task(config, bpf_get_current_cgroup_id()) : 0;

	if (!endpoint || endpoint->state == STATE_UNMANAGED || !(endpoint->flags & ENDPOINT_HELLOS))
		return 1;
#ifdef HAVE_SET_RETVAL
	enum { EPROTONOSUPPORT_ERRNO = 93, HELPER_SET_RETVAL = 187 };

	((int (*)(int))HELPER_SET_RETVAL)(-EPROTONOSUPPORT_ERRNO);
#endif
	return 0;
}

int sock_create(struct bpf_sock *sk)
{
#ifdef HAVE_SKB_NETNS
	enum { STREAM = 1, RAW = 3, MPTCP = 262, NOTES_ALL = 0 };
#else
	enum { STREAM = 1, RAW = 3, MPTCP = 262, NOTES_ALL = 1 };
#endif

	if (NOTES_ALL || sk->type == STREAM)
		note_creator(sk);
	if (sk->protocol == MPTCP)
		return may_have_mptcp();
	return sk->type == RAW ? may_have_socket(HOOK_SOCK_CREATE, 0, sk->protocol) : 1;
}

int sock_release(struct bpf_sock *sk)
{
	struct promoted *s = sockets.sk_storage_get(sk, 0, 0);

	if (!s)
		return 1;
	socket_disown(s, bpf_get_socket_cookie(sk));
	if (s->sent_packets | s->received_packets)
		socket_flush(s);
	if (s->sent_packets | s->received_packets) { /* the flow was evicted: the identity's totals are exact all the same */
		count_loss(LOSS_FLUSH_MISS, s->sent_packets + s->received_packets);
		count_identity(s->identity, s->key.direction, 0, s->sent_packets, s->sent_bytes);
		count_identity(s->identity, s->key.direction, 1, s->received_packets, s->received_bytes);
		s->sent_packets = s->sent_bytes = s->received_packets = s->received_bytes = 0;
	}
	s->epoch = 0; /* FIN and the last ACKs are counted in the flow again */
	return 1;
}
