// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* From one program to the next, and to the agent. */

enum tail {
	TAIL_DATAGRAM = 0,
	TAIL_DNS = 1,
	TAIL_STREAM = 2,
	TAIL_LEARN = 3,
	TAIL_REPORT = 4,
	TAIL_NAMED = 5,
	TAIL_HELLO = 6,
	TAIL_GREETED = 7,
	TAIL_HELLO_NAME = 8,
	TAIL_HELLO_FIELDS = 9,
	TAIL_ANSWERED = 10,
	TAIL_REQUEST = 11,
	TAIL_REQUEST_READ = 12,
	TAIL_REQUEST_MATCH = 13,
	TAIL_REQUESTED = 14,
};

static __always_inline void call_tail(struct __sk_buff *skb, int way, int tail)
{
	if (way == DIRECTION_INGRESS)
		tail_ingress.call(skb, tail);
	else
		tail_egress.call(skb, tail);
}

/* What a packet that passes has besides: what is asked of DNS servers is remembered, and what they answer is learned and
 * reported (dns.c). Nothing else is delayed by it.
 */
static __always_inline int pass(struct __sk_buff *skb, const struct packet *packet, int way)
{
	enum { DNS_PORT = 53 };

	if (packet->remote_port == bpf_htons(DNS_PORT) &&
	    (packet->protocol == PROTOCOL_UDP || packet->protocol == PROTOCOL_TCP))
		call_tail(skb, way, TAIL_DNS);
	return 1;
}

/* Without a slow path, managed endpoints are closed and unmanaged ones open. */
static __always_inline int tail_missing(struct __sk_buff *skb, __u64 cgroup_id, int way)
{
	struct config *config = configuration();
	struct endpoint *endpoint = config ? endpoint_of_skb(skb, config, cgroup_id) : 0;
	struct rule rule = { .reason = DROP_NOT_READY };
	struct event event = { .direction = way, .length = skb->len };

	count_loss(LOSS_TAIL_MISSING, 1);
	if (endpoint && endpoint->state == STATE_UNMANAGED)
		return 1;
	if (endpoint) {
		event.slot = endpoint->slot;
		event.identity = endpoint->identity;
	}
	count_denial(&event, &rule, segments(skb));
	return 0;
}

/* An unknown cgroup: the agent is asked once (the entry in `pending` remembers that). */
static __always_inline void ask_agent(__u64 leaf, __u64 ancestor, __u64 other_ancestor, __u8 hook)
{
	enum { SECOND_NS = 1000000000 };
	__u64 now = bpf_ktime_get_ns();
	__u64 *asked = pending.lookup(&leaf);

	if (asked && now - *asked < SECOND_NS)
		return;
	if (asked)
		*asked = now;
	else if (pending.update(&leaf, &now))
		count_loss(LOSS_PENDING_FULL, 1);
	struct event event = {
		.cgroup_id = leaf,
		.ancestors = { ancestor, other_ancestor },
		.reason = DROP_PENDING,
		.kind = EVENT_PENDING,
		.hook = hook,
	};

	event_send(&event);
}
