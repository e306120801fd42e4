// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* What became of connections that pods opened: evidence for people. Nothing here changes a verdict.
 *
 * connect() notes who called, in `attempts`; the socket's changes of state (sockops.c) and the first bytes of an answer
 * (answer.c) tell how it went on. An established connection costs nothing until it ends.
 */

/* Facts about the end of a connection that the caller has at hand. */
struct ending {
	__u32 rtt_us;
	__u32 retransmits;
	__u16 detail;
	__u8 cause;
	__u8 hook;
	__be16 client_port;
};

/* For the process that calls connect(). Without memory for it the connection is not told about. */
static __always_inline void attempt_begin(struct bpf_sock_addr *ctx, const struct flow_key *key, __u32 identity,
					  __u32 slot, __u32 rule)
{
	struct bpf_sock *sk = ctx->sk;
	struct attempt *attempt = sk ? attempts.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (!attempt)
		return;
	attempt->began_ns = bpf_ktime_get_ns();
	attempt->established_ns = 0;
	attempt->answered_ns = 0;
	attempt->cgroup_id = key->cgroup_id;
	attempt->peer = key->peer;
	attempt->service_port = key->service_port;
	attempt->rule = rule;
	attempt->identity = identity;
	attempt->slot = slot;
	attempt->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(attempt->comm, sizeof(attempt->comm));
}

static __always_inline int may_report_outcome(const struct config *config, __u32 slot, int failed)
{
	int index = (slot & (ENDPOINT_SLOTS - 1)) * 2 + (failed ? 0 : 1);
	struct bucket *bucket = outcome_rates.lookup(&index);

	if (bucket && take_token(&bucket->tokens, &bucket->refilled, config, OUTCOME_RATE, OUTCOME_BURST,
				 bpf_jiffies64()))
		return 1;
	if (failed) /* of ordinary ends a sample is enough */
		count_loss(LOSS_OUTCOME_RATE, 1);
	return 0;
}

static __always_inline void outcome_report(const struct attempt *attempt, const struct ending *ending, __u64 cookie)
{
	struct config *config = configuration();

	if (!config || !may_report_outcome(config, attempt->slot, ending->cause != CAUSE_NONE))
		return;
	struct outcome *outcome = events.ringbuf_reserve(sizeof(*outcome));

	if (!outcome) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	__builtin_memset(outcome, 0, sizeof(*outcome));
	outcome->event.time_ns = bpf_ktime_get_ns();
	outcome->event.cgroup_id = attempt->cgroup_id;
	outcome->event.socket_cookie = cookie;
	outcome->event.peer = attempt->peer;
	outcome->event.service_port = attempt->service_port;
	outcome->event.client_port = ending->client_port;
	outcome->event.protocol = PROTOCOL_TCP;
	outcome->event.direction = DIRECTION_EGRESS;
	outcome->event.verdict = VERDICT_ALLOW;
	outcome->event.rule = attempt->rule;
	outcome->event.identity = attempt->identity;
	outcome->event.slot = attempt->slot;
	outcome->event.pid = attempt->pid;
	outcome->event.kind = EVENT_OUTCOME;
	outcome->event.hook = ending->hook;
	__builtin_memcpy(outcome->comm, attempt->comm, sizeof(outcome->comm));
	outcome->began_ns = attempt->began_ns;
	outcome->established_ns = attempt->established_ns;
	outcome->answered_ns = attempt->answered_ns;
	outcome->rtt_us = ending->rtt_us;
	outcome->retransmits = ending->retransmits;
	outcome->detail = ending->detail;
	outcome->cause = ending->cause;
	events.ringbuf_submit(outcome, 0);
}
