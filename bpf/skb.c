// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* cgroup_skb/egress and ingress, the fast path.
 *
 * Returns 1: passes; 0: dropped (EPERM at a datagram's send). A packet whose flow is known leaves here; all else is
 * for the tail-called slow path. No clock is read: bpf_jiffies64() is a load.
 */

enum tail { TAIL_SLOW = 0 };

/* Moves the counters of a promoted socket into its flow. Where the flow was evicted they stay, and the storage is
 * invalidated: the next packet makes the flow again.
 */
static __always_inline void flush(struct promoted *s, __u32 now)
{
	struct flow *flow = flows.lookup(&s->key);

	s->flushed = now;
	if (!flow) {
		s->epoch = 0;
		return;
	}
	flow->last = s->last;
	__sync_fetch_and_add(&flow->sent_packets, s->sent_packets);
	__sync_fetch_and_add(&flow->sent_bytes, s->sent_bytes);
	__sync_fetch_and_add(&flow->received_packets, s->received_packets);
	__sync_fetch_and_add(&flow->received_bytes, s->received_bytes);
	s->sent_packets = s->sent_bytes = s->received_packets = s->received_bytes = 0;
}

static __always_inline void count_identity(__u32 identity, int direction, int inbound, __u32 packets, __u32 bytes)
{
	struct identity_counts *counts = counts_of(identity, direction);

	if (!counts)
		return;
	if (inbound) {
		counts->received_packets += packets;
		counts->received_bytes += bytes;
	} else {
		counts->sent_packets += packets;
		counts->sent_bytes += bytes;
	}
}

/* One flow in `flows` gets its own copy in the socket after some 256 packets. */
static __always_inline void promote(struct __sk_buff *skb, struct promoted *s, const struct flow *flow,
				    const struct flow_key *key, __be16 remote_port)
{
	enum { ESTABLISHED = 1 };
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk || (key->protocol == PROTOCOL_TCP && sk->state != ESTABLISHED))
		return;
	__u32 now = bpf_jiffies64();

	if (!s)
		s = sockets.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	else if (s->sent_packets | s->received_packets)
		flush(s, now);
	if (!s || (s->sent_packets | s->received_packets))
		return;
	s->slot = flow->slot;
	s->identity = flow->identity;
	s->last = s->flushed = now;
	s->remote_port = remote_port;
	s->key = *key;
	s->epoch = flow->epoch;
}

static __always_inline int serves_socket(const struct promoted *s, const struct packet *packet, int inbound,
					 const struct config *config)
{
	int index = s->slot;

	if (s->remote_port != packet->remote_port || s->key.protocol != packet->protocol ||
	    packet->role == ROLE_OPENS || !address_equal(&s->key.peer, &packet->peer))
		return 0;
	struct epoch *epoch = epochs.lookup(&index);

	if (!epoch || s->epoch != epoch->epoch)
		return 0;
	return flow_serves(packet->protocol, s->key.direction, inbound, (__u32)bpf_jiffies64() - s->last,
			   config->reply_ticks);
}

static __always_inline void count_socket(struct promoted *s, struct __sk_buff *skb, int inbound,
					 const struct config *config)
{
	__u32 now = bpf_jiffies64();
	__u32 packets = segments(skb);

	if (inbound) {
		s->received_packets += packets;
		s->received_bytes += skb->len;
	} else {
		s->sent_packets += packets;
		s->sent_bytes += skb->len;
	}
	s->last = now;
	count_identity(s->identity, s->key.direction, inbound, packets, skb->len);
	if (now - s->flushed > config->flush_ticks)
		flush(s, now);
}

static __always_inline struct flow *find_flow(const struct packet *packet, int inbound, int connected,
					      const struct config *config, struct flow_key *key)
{
	struct flow *flow = 0;

	if (!inbound || packet->role != ROLE_OPENS) {
		flow_key_of(packet, key->cgroup_id, DIRECTION_EGRESS, connected, key);
		flow = flows.lookup(key);
	}
	if (!flow && (inbound || packet->role != ROLE_OPENS)) {
		flow_key_of(packet, key->cgroup_id, DIRECTION_INGRESS, connected, key);
		flow = flows.lookup(key);
	}
	if (!flow || !flow_is_current(flow))
		return 0;
	if (!flow_serves(packet->protocol, key->direction, inbound, (__u32)bpf_jiffies64() - flow->last,
			 config->reply_ticks))
		return 0;
	return flow;
}

static __always_inline void count_flow(struct flow *flow, struct __sk_buff *skb, const struct packet *packet,
				       const struct flow_key *key, int inbound)
{
	__u32 packets = segments(skb);

	if (inbound) {
		__sync_fetch_and_add(&flow->received_packets, packets);
		__sync_fetch_and_add(&flow->received_bytes, skb->len);
	} else {
		__sync_fetch_and_add(&flow->sent_packets, packets);
		__sync_fetch_and_add(&flow->sent_bytes, skb->len);
	}
	flow->last = bpf_jiffies64();
	count_identity(flow->identity, key->direction, inbound, packets, skb->len);
	if (inbound && packet->role == ROLE_OPENS) { /* connections that we open are counted in connect() */
		struct identity_counts *counts = counts_of(flow->identity, key->direction);

		__sync_fetch_and_add(&flow->connections, 1);
		if (counts)
			counts->connections += 1;
	}
}

static __always_inline int count_skb(struct __sk_buff *skb, int inbound)
{
	struct packet packet = {};
	struct flow_key key = {};
	struct promoted *s = 0;
	struct bpf_sock *sk = skb->sk;
	struct config *config = configuration();
	int connected = 0;

	if (!config)
		return 0;
	if (sk)
		s = sockets.sk_storage_get(sk, 0, 0);
	key.cgroup_id = bpf_skb_cgroup_id(skb);
	if (!s) {
		int index = key.cgroup_id & (BYPASS_SLOTS - 1);
		__u64 *unmanaged = bypass.lookup(&index);

		if (unmanaged && *unmanaged == key.cgroup_id)
			return 1;
	}
	if (parse_fast(skb, inbound, &packet)) {
		if (s && serves_socket(s, &packet, inbound, config)) {
			count_socket(s, skb, inbound, config);
			return 1;
		}
		if (sk)
			connected = sk->dst_port != 0;
		struct flow *flow = find_flow(&packet, inbound, connected, config, &key);

		if (flow) {
			count_flow(flow, skb, &packet, &key, inbound);
			if (packet.role != ROLE_OPENS && bpf_get_prandom_u32() < 0xffffffffu / 256)
				promote(skb, s, flow, &key, packet.remote_port);
			return 1;
		}
	}
	if (inbound)
		tail_ingress.call(skb, TAIL_SLOW);
	else
		tail_egress.call(skb, TAIL_SLOW);
	count_loss(LOSS_TAIL_MISSING, 1);
	struct endpoint *endpoint = endpoint_of_skb(skb, config, key.cgroup_id);

	return endpoint && endpoint->state == STATE_UNMANAGED;
}

int egress(struct __sk_buff *skb)
{
	return count_skb(skb, 0);
}

int ingress(struct __sk_buff *skb)
{
	return count_skb(skb, 1);
}
