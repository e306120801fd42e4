// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* cgroup/connect4 and connect6: TCP is decided before a packet exists.
 *
 * Returns 1: goes on; 0: refused, with EACCES where the kernel has bpf_set_retval() (HAVE_SET_RETVAL), else EPERM.
 * Datagrams and pending endpoints go on: egress decides them, but for groups (sendmsg.c): a connected socket's
 * datagrams meet no sendmsg hook.
 */

static __always_inline __u64 creator_of(__u64 cookie, __u64 otherwise)
{
	struct creator creator = {};

	return find_creator(cookie, &creator) ? creator.cgroup_id : otherwise;
}

static __always_inline int refuse(void)
{
#ifdef HAVE_SET_RETVAL
	enum { EACCES_ERRNO = 13, HELPER_SET_RETVAL = 187 };

	((int (*)(int))HELPER_SET_RETVAL)(-EACCES_ERRNO);
#endif
	return 0;
}

/* May this task's pod send to a group? Only pods on the host's network are asked: see sendmsg.c. */
static __always_inline int may_reach_group(__u64 task, const struct address *peer, __u8 protocol, __be16 port, __u8 hook)
{
	struct rule rule = {};
	struct place place;

	place_of(task, &place);
	if (place.known && !(place.flags & ENDPOINT_HOST_NETWORK))
		return 1;
	struct config *config = configuration();

	if (!address_is_group(peer) || !config)
		return 1;
	struct endpoint *endpoint = endpoint_of_task(config, task);

	if (!endpoint || !(endpoint->flags & ENDPOINT_HOST_NETWORK) || endpoint->state == STATE_UNMANAGED)
		return 1;
	if (endpoint->state == STATE_PENDING)
		rule.reason = DROP_PENDING;
	else
		judge(endpoint, peer, protocol, port, DIRECTION_EGRESS, &rule); /* no name leads to a group */
	if (rule.verdict != VERDICT_DENY)
		return 1;
	struct event event = {
		.cgroup_id = task,
		.task_cgroup_id = task,
		.peer = *peer,
		.service_port = port,
		.protocol = protocol,
		.direction = DIRECTION_EGRESS,
		.hook = hook,
		.identity = endpoint->identity,
		.slot = endpoint->slot,
		.pid = bpf_get_current_pid_tgid() >> 32,
	};

	record_denied_call(config, &event, &rule);
	return 0;
}

static __always_inline struct promoted *storage_of(struct bpf_sock_addr *ctx, int flags)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? sockets.sk_storage_get(sk, 0, flags) : 0;
}

static __always_inline void mark_pending(struct bpf_sock_addr *ctx)
{
	struct promoted *s = storage_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);

	if (s && s->waits != WAITS_FOR_RETRY)
		s->waits = WAITS_FOR_AGENT;
}

/* Who calls connect() opens the connection (P9), also where the socket has listened, or was accepted, before. Without
 * `flags` only a socket that has another mark gets it. One that finds no memory for it is denied at its SYN.
 */
static __always_inline void mark_opened(struct bpf_sock_addr *ctx, int flags)
{
	struct promoted *s = storage_of(ctx, flags);

	if (s && s->opened != OPENED_BY_US)
		s->opened = OPENED_BY_US;
}

/* 127.0.0.0/8 or ::1 by another device than lo leaves the pod (P7). What else is bound to no device egress sees. */
static __always_inline int is_bound_elsewhere(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk && sk->bound_dev_if && sk->bound_dev_if != LOOPBACK_DEVICE;
}

static __always_inline void count_connection(struct flow *flow, __u32 identity)
{
	if (flow)
		__sync_fetch_and_add(&flow->connections, 1);
	count_identity_connection(identity, DIRECTION_EGRESS);
}

/* Perhaps the pod's own address, which nobody knows (yet): of its links, or before the API has it. */
static __always_inline int may_be_own(const struct endpoint *endpoint, const struct address *peer, __u8 reason)
{
	if (address_is_link_local(peer))
		return 1;
	return reason == DROP_UNKNOWN_PEER && address_is_zero(&endpoint->own[!address_is_ipv4(peer)]);
}

static __always_inline int decide_connect(struct bpf_sock_addr *ctx, const struct config *config,
					  const struct judged *judged, struct flow_key *key, __u64 task, __u64 cookie)
{
	const struct endpoint *endpoint = judged->endpoint;
	struct rule rule = {};
	struct event event = {
		.cgroup_id = key->cgroup_id,
		.task_cgroup_id = task,
		.socket_cookie = cookie,
		.peer = key->peer,
		.service_port = key->service_port,
		.protocol = PROTOCOL_TCP,
		.direction = DIRECTION_EGRESS,
		.hook = HOOK_CONNECT,
		.identity = endpoint->identity,
		.slot = endpoint->slot,
		.pid = bpf_get_current_pid_tgid() >> 32,
	};

	if (endpoint->flags & ENDPOINT_HOST_NETWORK) {
		judge_names(endpoint, key, &rule);
	} else if (address_is_loopback(&key->peer)) {
		if (!is_bound_elsewhere(ctx))
			return 1;
		rule.reason = DROP_LOOPBACK;
	} else if (is_own_address(endpoint, &key->peer)) {
		return 1; /* by lo, as egress sees; else it is judged there (P7) */
	} else {
		judge_names(endpoint, key, &rule);
		if (rule.verdict == VERDICT_DENY && may_be_own(endpoint, &key->peer, rule.reason))
			return 1; /* egress sees the device */
	}
	if (rule.verdict == VERDICT_DENY) {
		record_denied_call(config, &event, &rule);
		return refuse();
	}
	struct flow fresh;
	struct flow *flow = remember(key, config, judged, &rule, 0, 0, &fresh);

	count_connection(flow, endpoint->identity);
	attempt_begin(ctx, key, endpoint->identity, endpoint->slot, rule.rule);
	if (rule.verdict == VERDICT_AUDIT) {
		record_audited_call(config, &event, &rule);
	} else if (task != key->cgroup_id) {
		event.kind = EVENT_FOREIGN_SOCKET;
		event_report(config, &event, &rule, 1);
	}
	return 1;
}

/* Whose call it is: the endpoint of the socket's maker, and its epoch, read before it. */
static __always_inline void judged_of_call(const struct config *config, const struct place *place, __u64 maker,
					   __u64 task, struct judged *out)
{
	out->epoch = place->epoch;
	out->endpoint = endpoint_of_maker(config, maker, task);
	if (place->known || !out->endpoint)
		return;
	__u32 slot = out->endpoint->slot;

	out->epoch = epoch_of(slot);
	out->endpoint = endpoint_of_maker(config, maker, task);
	if (out->endpoint && out->endpoint->slot != slot)
		out->epoch = 0;
}

/* One more connection of a flow whose verdict is current: 1. Anything else has to be judged: 0. */
static __always_inline int is_known_connection(struct bpf_sock_addr *ctx, struct flow_key *key,
					       const struct place *place)
{
	struct flow *flow = flows.lookup(key);
	__u64 stamp = flow ? *(volatile __u64 *)&flow->stamp : 0;

	if (!flow || !is_stamp_of(stamp, key) || !is_current(stamp, flow->slot, place))
		return 0;
	count_connection(flow, flow->identity);
	attempt_begin(ctx, key, flow->identity, flow->slot, flow->rule);
	if (flow->verdict == VERDICT_AUDIT)
		count_audited(flow, DIRECTION_EGRESS);
	return 1;
}

static __always_inline int connect_stream(struct bpf_sock_addr *ctx, const struct address *peer, __u64 task)
{
	struct config *config = configuration();
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct flow_key key = {
		.cgroup_id = creator_of(cookie, task),
		.peer = *peer,
		.service_port = ctx->user_port,
		.protocol = PROTOCOL_TCP,
		.direction = DIRECTION_EGRESS,
	};
	struct judged judged = {};
	struct place place;

	if (!config)
		return 0;
	place_of(key.cgroup_id, &place);
	mark_opened(ctx, place.state == STATE_UNMANAGED ? 0 : BPF_SK_STORAGE_GET_F_CREATE);
	if (place.state == STATE_UNMANAGED)
		return 1;
	if (key.cgroup_id == task && is_known_connection(ctx, &key, &place))
		return 1;
	judged_of_call(config, &place, key.cgroup_id, task, &judged);
	if (!judged.endpoint || judged.endpoint->state == STATE_PENDING) {
		if (denied_by_agent_loss(config, DIRECTION_EGRESS, 0))
			return refuse();
		mark_pending(ctx);
		attempt_begin(ctx, &key, 0, 0, 0);
		return 1;
	}
	if (judged.endpoint->state == STATE_UNMANAGED)
		return 1;
	return decide_connect(ctx, config, &judged, &key, task, cookie);
}

static __always_inline int connect(struct bpf_sock_addr *ctx, const struct address *peer)
{
	enum { STREAM = 1, DATAGRAM = 2 };
	__u64 task = bpf_get_current_cgroup_id();

	if (ctx->type == DATAGRAM)
		return may_reach_group(task, peer, ctx->protocol, ctx->user_port, HOOK_CONNECT);
	if (ctx->type != STREAM || ctx->protocol == PROTOCOL_SCTP || address_is_unspecified(peer))
		return 1;
	return connect_stream(ctx, peer, task);
}

int connect4(struct bpf_sock_addr *ctx)
{
	struct address peer;

	address_from_ipv4(&peer, ctx->user_ip4);
	return connect(ctx, &peer);
}

/* The address that a call names, of a hook of IPv6. */
static __always_inline void address_of_call(struct bpf_sock_addr *ctx, struct address *out)
{
	out->word[0] = ctx->user_ip6[0];
	out->word[1] = ctx->user_ip6[1];
	out->word[2] = ctx->user_ip6[2];
	out->word[3] = ctx->user_ip6[3];
}

int connect6(struct bpf_sock_addr *ctx)
{
	struct address peer;

	address_of_call(ctx, &peer);
	return connect(ctx, &peer);
}
