// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* cgroup_skb/egress and ingress, the fast path.
 *
 * Returns 1: passes; 0: dropped (EPERM at a datagram's send). A packet whose flow is known is done here; all else is
 * for the tail-called slow path. No clock is read: bpf_jiffies64() is a load.
 */

/* Takes what a counter holds: into `flow`, and into `total`. Another CPU, or a softirq on this one, may take the same at
 * the same time: then the counter is below zero, and both sums are too high, until a third adds that rest. All steps are
 * additions modulo 2^64, so counter + flow stays what was counted; whoever reads a sum reads it modulo 2^64 too.
 */
static __always_inline void counter_take(__u64 *counter, __u64 *flow, __u64 *total)
{
	__u64 counted = *counter;

	if (!counted)
		return;
	__sync_fetch_and_add(counter, -counted);
	__sync_fetch_and_add(flow, counted);
	__sync_fetch_and_add(total, counted);
}

static __always_inline void traffic_take(struct traffic *counter, struct traffic *flow, struct traffic *total)
{
	counter_take(&counter->packets, &flow->packets, &total->packets);
	counter_take(&counter->bytes, &flow->bytes, &total->bytes);
}

/* Moves the counters of a promoted socket into its flow and its identity. If the flow was evicted, they stay in the
 * socket and its epoch is cleared, so that the next packet makes the flow again.
 */
static __always_inline void socket_flush(struct promoted *s)
{
	struct flow *flow = flows.lookup(&s->key);
	struct identity_counts *totals = counts_of(s->identity, s->key.direction);

	if (!flow || !totals) {
		s->epoch = 0;
		return;
	}
	if ((__s32)(s->last - flow->last) > 0) /* a reply's clock only goes forward (P9) */
		flow->last = s->last;
	traffic_take(&s->traffic[DIRECTION_EGRESS], &flow->traffic[DIRECTION_EGRESS], &totals->traffic[DIRECTION_EGRESS]);
	traffic_take(&s->traffic[DIRECTION_INGRESS], &flow->traffic[DIRECTION_INGRESS],
		     &totals->traffic[DIRECTION_INGRESS]);
}

static __always_inline __u32 flush_ticks(void)
{
	struct config *config = configuration();

	return config ? config->flush_ticks : 0;
}

/* An answer to a datagram is one only while the flow that asked is live (P9); everything else needs no clock. */
static __always_inline int is_live(__u8 protocol, int direction, int way, __u32 last)
{
	if (protocol == PROTOCOL_TCP || direction == way)
		return 1;
	struct config *config = configuration();

	return config && answers_in_time(config, last, bpf_jiffies64());
}

/* A connection that a listener accepts inherits the listener's storage (BPF_F_CLONE), for its mark. What that has counted
 * is not the child's. (0: promoted by a release that did not write it down.)
 */
static __always_inline void socket_disown(struct promoted *s, __u64 cookie)
{
	if (!s->owner || s->owner == (__u32)cookie)
		return;
	s->traffic[DIRECTION_EGRESS] = s->traffic[DIRECTION_INGRESS] = (struct traffic){};
	s->epoch = 0;
	s->owner = 0;
}

/* The flow gets its own copy in the socket, with the epoch that it was just found to have. */
static __always_inline void socket_promote(struct __sk_buff *skb, struct promoted *s, const struct flow *flow,
				    const struct flow_key *key, const struct packet *packet, __u32 epoch)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct bpf_sock *sk = full_socket(skb);

	if (!sk || (key->protocol == PROTOCOL_TCP && sk->state != SOCKET_ESTABLISHED))
		return;
	if (!s)
		s = sockets.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	else
		socket_disown(s, cookie);
	if (s && (s->sent_packets | s->received_packets))
		socket_flush(s);
	if (!s || (s->sent_packets | s->received_packets))
		return;
	s->slot = flow->slot;
	s->identity = flow->identity;
	s->last = bpf_jiffies64();
	s->flush_at = s->last + flush_ticks();
	s->remote_port = packet->remote_port;
	s->local = tag_of_address(&packet->local);
	s->key = *key;
	s->owner = cookie;
	s->epoch = epoch;
}

/* True for one packet in PROMOTE_PACKETS: those of long flows, soon; of short ones, seldom. Drawing a random number
 * costs as much as all the rest of a hit.
 */
static __always_inline int is_long(const struct flow *flow, struct __sk_buff *skb, int way)
{
	return (flow->traffic[way].packets & (PROMOTE_PACKETS - 1)) < segments(skb);
}

static __always_inline int serves_socket(const struct promoted *s, const struct packet *packet, int way,
					 const struct place *place)
{
	return s->remote_port == packet->remote_port && s->key.protocol == packet->protocol &&
	       packet->role != ROLE_OPENS && address_equal(&s->key.peer, &packet->peer) &&
	       s->local == tag_of_address(&packet->local) && is_current(s->epoch, s->slot, place) &&
	       is_live(packet->protocol, s->key.direction, way, s->last);
}

/* The identity's totals follow at the flush. */
static __always_inline void count_socket(struct promoted *s, struct __sk_buff *skb, int way)
{
	count_traffic(&s->traffic[way], segments(skb), skb->len);
	s->last = bpf_jiffies64();
	if ((__s32)(s->last - s->flush_at) > 0) {
		s->flush_at = s->last + flush_ticks();
		socket_flush(s);
	}
}

/* The flow of a TCP packet: in the direction that its socket knows, never in whichever has one (P9). A socket that does
 * not know is for the slow path, and so is a listener that is not marked yet: its connections inherit the mark.
 */
static __always_inline struct flow *find_stream(const struct packet *packet, int way, const struct bpf_sock *sk,
						const struct promoted *s, struct flow_key *key)
{
	int opened = s ? s->opened : OPENED_UNKNOWN;

	if (!sk || !opened || (sk->state == SOCKET_LISTEN && opened != OPENED_BY_PEER))
		return 0;
	int direction = opened == OPENED_BY_US ? DIRECTION_EGRESS : DIRECTION_INGRESS;

	if (packet->role == ROLE_OPENS && direction != way)
		return 0;
	return lookup_flow(packet, direction, 0, key);
}

/* The flow of a datagram, opened by either side; a packet that only opens looks in its own direction. Pods ask more than
 * they are asked, so what they opened is looked up first, also for what comes in: one lookup for most answers. A pair
 * that asks each other by the same ports, of which one flow is stale, goes by the slow path.
 */
static __always_inline struct flow *find_datagram(const struct packet *packet, int way, int connected,
						  struct flow_key *key)
{
	struct flow *flow = 0;

	if (way == DIRECTION_EGRESS || packet->role != ROLE_OPENS)
		flow = lookup_flow(packet, DIRECTION_EGRESS, connected, key);
	if (!flow && (way == DIRECTION_INGRESS || packet->role != ROLE_OPENS))
		flow = lookup_flow(packet, DIRECTION_INGRESS, connected, key);
	return flow;
}

static __always_inline void count_flow(struct flow *flow, struct __sk_buff *skb, const struct packet *packet,
				       const struct flow_key *key, int way)
{
	__u32 packets = segments(skb);

	count_traffic(&flow->traffic[way], packets, skb->len);
	flow->last = bpf_jiffies64();
	count_identity(flow->identity, key->direction, way, packets, skb->len);
	if (way == DIRECTION_INGRESS && packet->role == ROLE_OPENS) { /* connections that we open are counted in connect() */
		__sync_fetch_and_add(&flow->connections, 1);
		count_identity_connection(flow->identity, key->direction);
		if (flow->verdict == VERDICT_AUDIT)
			count_audited(flow, key->direction);
	}
}

/* What others asked is answered in the network namespace in which it was asked: a task may make namespaces of its own,
 * and send from any address there.
 */
static __always_inline int is_at_home(const struct flow *flow, __u64 stamp, const struct promoted *s, __u8 protocol,
				      int direction)
{
	if (protocol == PROTOCOL_TCP || direction == DIRECTION_EGRESS)
		return 1;
	return s && s->network && s->network == *(volatile __u64 *)&flow->network &&
	       stamp == *(volatile __u64 *)&flow->stamp;
}

/* No acknowledgement alone: those are as long as their headers, with a timestamp at most. */
static __always_inline int may_be_answer(struct __sk_buff *skb, const struct promoted *s, int way)
{
	enum { IPV4_HEADERS = 52, IPV6_HEADERS = 72 };

	return way == DIRECTION_INGRESS && s && s->waits == WAITS_FOR_ANSWER &&
	       skb->len > (skb->protocol == bpf_htons(ETHERTYPE_IPV4) ? IPV4_HEADERS : IPV6_HEADERS);
}

/* Was judged what a packet's connection carries, where its flow asks for it? By the epoch of its verdict. */
static __always_inline int is_greeted(const struct flow *flow, const struct promoted *s, __u32 epoch)
{
	return !flow->inspect || (s && s->greeted == epoch);
}

/* A packet of a flow whose verdict is current: counted, and let go. Any other is for the slow path. */
static __always_inline int fast_path(struct __sk_buff *skb, int way)
{
	struct packet packet = {};
	struct flow_key key = {};
	struct promoted *s = 0;
	struct bpf_sock *sk = skb->sk;
	struct place place;
	int connected = 0;

	key.cgroup_id = bpf_skb_cgroup_id(skb);
	place_of(key.cgroup_id, &place);
	if (place.state == STATE_UNMANAGED)
		return 1;
	if (skb->ifindex == LOOPBACK_DEVICE && place.state == STATE_MANAGED && !(place.flags & ENDPOINT_HOST_NETWORK))
		return 1; /* it stays in the pod (P7) */
	if (parse_fast(skb, way, &packet)) {
		if (sk) {
			s = sockets.sk_storage_get(sk, 0, 0);
			connected = packet.protocol == PROTOCOL_UDP && sk->dst_port != 0;
		}
		if (s && serves_socket(s, &packet, way, &place)) {
			count_socket(s, skb, way);
			if (may_be_answer(skb, s, way))
				call_tail(skb, way, TAIL_ANSWERED);
			return pass(skb, &packet, way);
		}
		struct flow *flow = packet.protocol == PROTOCOL_TCP ? find_stream(&packet, way, sk, s, &key)
								    : find_datagram(&packet, way, connected, &key);
		__u64 stamp = flow ? *(volatile __u64 *)&flow->stamp : 0;

		if (flow && is_stamp_of(stamp, &key) && is_current(stamp, flow->slot, &place) &&
		    flow->local == tag_of_address(&packet.local) &&
		    is_at_home(flow, stamp, s, packet.protocol, key.direction) &&
		    is_live(packet.protocol, key.direction, way, flow->last)) {
			if (way == DIRECTION_EGRESS && !is_greeted(flow, s, stamp)) {
				call_tail(skb, way, flow->inspect & INSPECT_REQUESTS ? TAIL_REQUEST : TAIL_HELLO);
				return tail_missing(skb, key.cgroup_id, way);
			}
			count_flow(flow, skb, &packet, &key, way);
			if (packet.role != ROLE_OPENS && is_long(flow, skb, way) && is_greeted(flow, s, stamp))
				socket_promote(skb, s, flow, &key, &packet, stamp);
			if (may_be_answer(skb, s, way))
				call_tail(skb, way, TAIL_ANSWERED);
			return pass(skb, &packet, way);
		}
	}
	call_tail(skb, way, packet.protocol == PROTOCOL_TCP ? TAIL_STREAM : TAIL_DATAGRAM);
	return tail_missing(skb, key.cgroup_id, way);
}

int egress(struct __sk_buff *skb)
{
	return fast_path(skb, DIRECTION_EGRESS);
}

int ingress(struct __sk_buff *skb)
{
	return fast_path(skb, DIRECTION_INGRESS);
}
