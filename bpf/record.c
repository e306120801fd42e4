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

/* Who a report is about: filled by the hook, complete before report() or record_denial(). */
struct subject {
	__u64 cgroup_id;
	__u64 task_cgroup_id;
	__u64 socket_cookie;
	struct address peer;
	__be16 service_port;
	__be16 client_port;
	__u8 protocol;
	__u8 direction;
	__u8 hook;
	__u8 kind;
	__u8 family;
	__u32 identity;
	__u32 slot;
	__u32 pid;
	__u32 length;
};

static __always_inline void report(const struct config *config, const struct subject *s, const struct rule *rule)
{
	int index = s->slot;
	struct slot *slot = slots.lookup(&index);

	if (slot && !take_token(slot, config, bpf_jiffies64())) {
		count_loss(LOSS_EVENT_RATE, 1);
		return;
	}
	struct event *event = events.ringbuf_reserve(sizeof(struct event));

	if (!event) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->cgroup_id = s->cgroup_id;
	event->task_cgroup_id = s->task_cgroup_id;
	event->socket_cookie = s->socket_cookie;
	event->peer = s->peer;
	event->service_port = s->service_port;
	event->client_port = s->client_port;
	event->protocol = s->protocol;
	event->direction = s->direction;
	event->verdict = rule->verdict;
	event->reason = rule->reason;
	event->rule = rule->rule;
	event->identity = s->identity;
	event->slot = s->slot;
	event->pid = s->pid;
	event->length = s->length;
	event->kind = s->kind;
	event->hook = s->hook;
	event->family = s->family;
	events.ringbuf_submit(event, 0);
}

static __always_inline void count_denial(const struct subject *s, const struct rule *rule, __u64 packets)
{
	struct denial_key key = {
		.slot = s->slot,
		.rule = rule->rule,
		.identity = s->identity,
		.reason = rule->reason,
		.direction = s->direction,
		.verdict = rule->verdict,
	};
	struct denial zero = {};
	struct denial *denial = denials.lookup_or_try_init(&key, &zero);

	if (denial) {
		__sync_fetch_and_add(&denial->packets, packets);
		if (s->length)
			__sync_fetch_and_add(&denial->bytes, s->length);
	} else {
		count_loss(LOSS_DENIALS_FULL, packets);
	}
}

static __always_inline void record_denial(const struct config *config, struct subject *s, const struct rule *rule,
					  __u64 packets)
{
	struct identity_counts *counts = counts_of(s->identity, s->direction);

	if (counts) {
		__sync_fetch_and_add(&counts->denied_packets, packets);
		if (s->length) /* LLVM turns adding a known zero into an instruction that 5.10 does not have */
			__sync_fetch_and_add(&counts->denied_bytes, s->length);
	}
	count_denial(s, rule, packets);
	s->kind = EVENT_DENIED;
	report(config, s, rule);
}

/* One more connection of a flow that a policy in audit would deny; the flow was reported when it was judged (P3). */
static __always_inline void count_audited(const struct flow *flow, int direction)
{
	struct rule rule = { .rule = flow->rule, .verdict = VERDICT_AUDIT, .reason = flow->reason };
	struct subject subject = { .identity = flow->identity, .slot = flow->slot, .direction = direction };
	struct identity_counts *counts = counts_of(flow->identity, direction);

	if (counts)
		__sync_fetch_and_add(&counts->audited, 1);
	count_denial(&subject, &rule, 1);
}

/* A flow that passes though a policy in audit would deny it: once a flow and revision (P3). */
static __always_inline void record_audit(const struct config *config, struct subject *s, const struct rule *rule)
{
	struct identity_counts *counts = counts_of(s->identity, s->direction);

	if (counts)
		__sync_fetch_and_add(&counts->audited, 1);
	count_denial(s, rule, 1);
	s->kind = EVENT_AUDITED;
	report(config, s, rule);
}
