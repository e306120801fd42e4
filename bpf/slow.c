// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The slow path of cgroup_skb, tail-called for packets whose flow is not known, or not valid any more.
 *
 * Returns 1: passes; 0: dropped; 2 (egress only): dropped without an error at the send, for pending datagrams.
 * A pending TCP SYN gets 0: the stack hides that error and sends it again.
 */

static __always_inline int hold_back(struct __sk_buff *skb, const struct config *config, __u64 leaf, int inbound,
				     __u8 protocol)
{
	if (denied_for_want_of_an_agent(config, inbound, skb->len))
		return 0;
	if (agent_is_gone(config)) {
		count_loss(LOSS_AGENT_GONE, 1);
		return 1;
	}
	ask_agent(leaf, bpf_skb_ancestor_cgroup_id(skb, config->pod_level[0]),
		  bpf_skb_ancestor_cgroup_id(skb, config->pod_level[1]), inbound ? HOOK_INGRESS : HOOK_EGRESS);
	return !inbound && protocol != PROTOCOL_TCP ? 2 : 0;
}

/* The flow that `packet` belongs to, whatever its epoch; its direction is in `key`. A datagram's answer is only an
 * answer while the flow is live: `stale_reply` says that it came too late.
 */
static __always_inline struct flow *known_flow(const struct packet *packet, int inbound, int connected,
					       const struct config *config, struct flow_key *key, int *stale_reply)
{
	int own = inbound ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	__u64 cgroup_id = key->cgroup_id;
	struct flow *flow;

	if (packet->role != ROLE_REPLY) {
		flow_key_of(packet, cgroup_id, own, connected, key);
		flow = flows.lookup(key);
		if (flow)
			return flow;
	}
	if (packet->role == ROLE_OPENS)
		return 0;
	flow_key_of(packet, cgroup_id, !own, connected, key);
	flow = flows.lookup(key);
	if (!flow)
		return 0;
	if (flow_serves(packet->protocol, !own, inbound, (__u32)bpf_jiffies64() - flow->last, config->reply_ticks))
		return flow;
	*stale_reply = 1;
	return 0;
}

static __always_inline void judge_direction(const struct endpoint *endpoint, const struct packet *packet, int direction,
					    struct rule *out)
{
	if (address_is_loopback(&packet->peer) && !(endpoint->flags & ENDPOINT_HOST_NETWORK)) {
		*out = (struct rule){ .verdict = VERDICT_ALLOW };
		return;
	}
	judge(endpoint, &packet->peer, packet->protocol,
	      direction == DIRECTION_EGRESS ? packet->remote_port : packet->local_port, direction, out);
}

/* Which direction decides (P9), and how. `key` becomes the key of the flow. */
static __always_inline void decide(const struct endpoint *endpoint, const struct packet *packet, int inbound,
				   int connected, const struct config *config, struct flow_key *key, struct rule *out)
{
	int own = inbound ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	int stale_reply = 0;
	__u64 cgroup_id = key->cgroup_id;
	struct flow *flow = known_flow(packet, inbound, connected, config, key, &stale_reply);

	if (flow && key->direction != own) { /* an answer: good while its question is allowed */
		judge_direction(endpoint, packet, !own, out);
		if (out->verdict != VERDICT_DENY || packet->protocol == PROTOCOL_TCP)
			return;
	}
	flow_key_of(packet, cgroup_id, own, connected, key);
	judge_direction(endpoint, packet, own, out);
	if (out->verdict != VERDICT_DENY || flow || packet->role == ROLE_OPENS)
		return;
	if (packet->protocol == PROTOCOL_TCP) { /* mid-stream and nobody remembers who opened it */
		struct rule other;

		judge_direction(endpoint, packet, !own, &other);
		if (other.verdict != VERDICT_DENY) {
			flow_key_of(packet, cgroup_id, !own, connected, key);
			*out = other;
		}
	} else if (out->reason == DROP_NO_RULE && (stale_reply || packet->role == ROLE_REPLY)) {
		out->reason = DROP_NOT_A_REPLY;
	}
}

static __always_inline void describe(struct __sk_buff *skb, const struct endpoint *endpoint,
				     const struct packet *packet, const struct flow_key *key, int inbound,
				     struct subject *out)
{
	out->cgroup_id = key->cgroup_id;
	out->socket_cookie = bpf_get_socket_cookie(skb);
	out->peer = packet->peer;
	out->protocol = packet->protocol;
	out->direction = key->direction;
	out->service_port = key->direction == DIRECTION_EGRESS ? packet->remote_port : packet->local_port;
	out->client_port = key->direction == DIRECTION_EGRESS ? packet->local_port : packet->remote_port;
	out->hook = inbound ? HOOK_INGRESS : HOOK_EGRESS;
	out->identity = endpoint->identity;
	out->slot = endpoint->slot;
	out->length = skb->len;
}

/* The first packet of a flow, or the first after its verdict was called into question. `flow` is null without room. */
static __always_inline void count_first(struct flow *flow, struct __sk_buff *skb, const struct packet *packet,
					__u32 identity, int direction, int inbound, int fresh)
{
	__u32 packets = segments(skb);
	int opens = fresh; /* connections that we open are counted in connect(), unless the endpoint was pending then */

	if (packet->protocol == PROTOCOL_TCP)
		opens = packet->role == ROLE_OPENS && (inbound || fresh);

	count_identity(identity, direction, inbound, packets, skb->len);
	if (opens)
		count_identity_connection(identity, direction);
	if (!flow)
		return;
	if (inbound) {
		__sync_fetch_and_add(&flow->received_packets, packets);
		__sync_fetch_and_add(&flow->received_bytes, skb->len);
	} else {
		__sync_fetch_and_add(&flow->sent_packets, packets);
		__sync_fetch_and_add(&flow->sent_bytes, skb->len);
	}
	if (opens)
		__sync_fetch_and_add(&flow->connections, 1);
	flow->last = bpf_jiffies64();
}

static __always_inline int slow_path(struct __sk_buff *skb, int inbound)
{
	struct config *config = configuration();
	struct packet packet = {};
	struct flow_key key = {};
	struct rule rule = {};
	int connected = 0;

	if (!config)
		return 0;
	key.cgroup_id = bpf_skb_cgroup_id(skb);
	struct endpoint *endpoint = endpoint_of_skb(skb, config, key.cgroup_id);

	if (endpoint && endpoint->state == STATE_UNMANAGED)
		return 1;
	parse_full(skb, inbound, &packet);
	if (!endpoint || endpoint->state == STATE_PENDING)
		return hold_back(skb, config, key.cgroup_id, inbound, packet.protocol);
	struct bpf_sock *sk = skb->sk;

	if (sk)
		connected = sk->dst_port != 0;
	if (packet.reason) {
		flow_key_of(&packet, key.cgroup_id, inbound, connected, &key);
		rule.reason = packet.reason;
	} else {
		decide(endpoint, &packet, inbound, connected, config, &key, &rule);
	}
	struct subject subject = {};

	if (rule.verdict == VERDICT_DENY) {
		describe(skb, endpoint, &packet, &key, inbound, &subject);
		record_denial(config, &subject, &rule, segments(skb));
		return 0;
	}
	struct flow *before = flows.lookup(&key);
	int fresh = !before;
	int first_audit = rule.verdict == VERDICT_AUDIT && (!before || !is_current(before->epoch, before->slot, 0));
	struct flow *flow = remember(&key, config, endpoint, &rule);

	count_first(flow, skb, &packet, endpoint->identity, key.direction, inbound, fresh && flow);
	if (first_audit) {
		describe(skb, endpoint, &packet, &key, inbound, &subject);
		record_audit(config, &subject, &rule);
	}
	return 1;
}

int slow_egress(struct __sk_buff *skb)
{
	return slow_path(skb, 0) & 3;
}

int slow_ingress(struct __sk_buff *skb)
{
	return slow_path(skb, 1) & 1;
}
