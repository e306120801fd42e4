// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Evidence: counters and events. Nothing here changes a verdict.
 *
 * Per-CPU counters are added to atomically as well: a softirq may interrupt a program in process context and count too.
 */

static __always_inline void count_loss(__u32 reason, __u64 n)
{
	int index = reason;
	__u64 *count = losses.lookup(&index);

	if (count)
		__sync_fetch_and_add(count, n);
}

static __always_inline struct identity_counts *counts_of(__u32 identity, int direction)
{
	int slot = identity & (IDENTITY_SLOTS - 1);
	struct identity_totals *totals = identities.lookup(&slot);

	return totals ? &totals->by[direction & 1] : 0;
}

static __always_inline void count_identity_connection(__u32 identity, int direction)
{
	struct identity_counts *counts = counts_of(identity, direction);

	if (counts)
		__sync_fetch_and_add(&counts->connections, 1);
}

static __always_inline __u32 segments(struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

static __always_inline void count_traffic(struct traffic *traffic, __u64 packets, __u64 bytes)
{
	__sync_fetch_and_add(&traffic->packets, packets);
	__sync_fetch_and_add(&traffic->bytes, bytes);
}

/* What `direction` opened and a packet's `way` carried. */
static __always_inline void count_identity(__u32 identity, int direction, int way, __u64 packets, __u64 bytes)
{
	struct identity_counts *counts = counts_of(identity, direction);

	if (counts)
		count_traffic(&counts->traffic[way], packets, bytes);
}

static __always_inline void event_send(struct event *event)
{
	event->time_ns = bpf_ktime_get_ns();
	if (events.ringbuf_output(event, sizeof(*event), 0))
		count_loss(LOSS_RING_FULL, 1);
}

/* With the name of the process that calls: only for hooks that run in it. */
static __always_inline void event_send_call(struct event *event)
{
	struct call *call = events.ringbuf_reserve(sizeof(*call));

	if (!call) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	event->time_ns = bpf_ktime_get_ns();
	call->event = *event;
	bpf_get_current_comm(call->comm, sizeof(call->comm));
	events.ringbuf_submit(call, 0);
}

/* Is there a token of the endpoint's left? What is suppressed is counted. */
static __always_inline int may_report(const struct config *config, __u32 number)
{
	int index = number;
	struct slot *slot = slots.lookup(&index);

	if (!slot || take_token(&slot->tokens, &slot->refilled, config, config->event_rate, config->event_burst,
				bpf_jiffies64()))
		return 1;
	count_loss(LOSS_EVENT_RATE, 1);
	return 0;
}

/* Hooks fill the event's "who"; a rule is why. Suppressed beyond the endpoint's rate. `calls`: a constant, see
 * event_send_call().
 */
static __always_inline void event_report(const struct config *config, struct event *event, const struct rule *rule,
					 int calls)
{
	if (!may_report(config, event->slot))
		return;
	event->verdict = rule->verdict;
	event->reason = rule->reason;
	event->rule = rule->rule;
	if (calls)
		event_send_call(event);
	else
		event_send(event);
}

static __always_inline void count_denial(const struct event *event, const struct rule *rule, __u64 packets)
{
	struct denial_key key = {
		.slot = event->slot,
		.rule = rule->rule,
		.identity = event->identity,
		.reason = rule->reason,
		.direction = event->direction,
		.verdict = rule->verdict,
	};
	struct denial zero = {};
	struct denial *denial = denials.lookup_or_try_init(&key, &zero);

	if (denial) {
		__sync_fetch_and_add(&denial->packets, packets);
		if (event->length)
			__sync_fetch_and_add(&denial->bytes, event->length);
	} else {
		count_loss(LOSS_DENIALS_FULL, packets);
	}
}

static __always_inline void record_denial_by(const struct config *config, struct event *event, const struct rule *rule,
					     __u64 packets, int calls)
{
	struct identity_counts *counts = counts_of(event->identity, event->direction);

	if (counts) {
		__sync_fetch_and_add(&counts->denied_packets, packets);
		if (event->length) /* LLVM turns adding a known zero into an instruction that 5.10 does not have */
			__sync_fetch_and_add(&counts->denied_bytes, event->length);
	}
	count_denial(event, rule, packets);
	event->kind = EVENT_DENIED;
	event_report(config, event, rule, calls);
}

static __always_inline void record_denial(const struct config *config, struct event *event, const struct rule *rule,
					  __u64 packets)
{
	record_denial_by(config, event, rule, packets, 0);
}

static __always_inline void record_denied_call(const struct config *config, struct event *event,
					       const struct rule *rule)
{
	record_denial_by(config, event, rule, 1, 1);
}

/* One more connection of a flow that a policy in audit would deny; the flow was reported when it was judged (P3). */
static __always_inline void count_audited(const struct flow *flow, int direction)
{
	struct rule rule = { .rule = flow->rule, .verdict = VERDICT_AUDIT, .reason = flow->reason };
	struct event event = { .identity = flow->identity, .slot = flow->slot, .direction = direction };
	struct identity_counts *counts = counts_of(flow->identity, direction);

	if (counts)
		__sync_fetch_and_add(&counts->audited, 1);
	count_denial(&event, &rule, 1);
}

/* A flow that passes though a policy in audit would deny it: once a flow and revision (P3). */
static __always_inline void record_audit_by(const struct config *config, struct event *event, const struct rule *rule,
					    int calls)
{
	struct identity_counts *counts = counts_of(event->identity, event->direction);

	if (counts)
		__sync_fetch_and_add(&counts->audited, 1);
	count_denial(event, rule, 1);
	event->kind = EVENT_AUDITED;
	event_report(config, event, rule, calls);
}

static __always_inline void record_audit(const struct config *config, struct event *event, const struct rule *rule)
{
	record_audit_by(config, event, rule, 0);
}

/* What is denied, or would be, in the place of one of both: the stack is small. Of an audit `packets` is 1. */
static __always_inline void count_refusal(const struct event *event, const struct rule *rule, __u64 packets)
{
	struct identity_counts *counts = counts_of(event->identity, event->direction);

	if (counts && rule->verdict == VERDICT_DENY) {
		__sync_fetch_and_add(&counts->denied_packets, packets);
		__sync_fetch_and_add(&counts->denied_bytes, event->length);
	} else if (counts) {
		__sync_fetch_and_add(&counts->audited, 1);
	}
	count_denial(event, rule, rule->verdict == VERDICT_DENY ? packets : 1);
}

static __always_inline void record_refusal(const struct config *config, struct event *event, const struct rule *rule,
					   __u64 packets)
{
	count_refusal(event, rule, packets);
	event->kind = rule->verdict == VERDICT_DENY ? EVENT_DENIED : EVENT_AUDITED;
	event_report(config, event, rule, 0);
}

static __always_inline void record_audited_call(const struct config *config, struct event *event,
						const struct rule *rule)
{
	record_audit_by(config, event, rule, 1);
}
