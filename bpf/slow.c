// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The slow path of cgroup_skb, tail-called for packets whose flow is not known, or not valid any more. It is three
 * programs each way, for TCP, for all else, and for what only a name may allow: the verifier of older kernels follows so
 * many ways through one program at most.
 *
 * Returns 1: passes; 0: dropped; 2 (egress only): dropped without an error at the send, for pending datagrams.
 * A pending TCP SYN gets 0: the stack hides that error and sends it again.
 */

static __always_inline __u8 hook_of(int way)
{
	return way == DIRECTION_INGRESS ? HOOK_INGRESS : HOOK_EGRESS;
}

/* A packet of a pod that the agent does not know yet (L3, L6). */
static __always_inline int hold_back(struct __sk_buff *skb, const struct config *config, __u64 leaf, int way,
				     __u8 protocol)
{
	if (denied_by_agent_loss(config, way, skb->len))
		return 0;
	if (agent_is_gone(config)) {
		count_loss(LOSS_AGENT_GONE, 1);
		return 1;
	}
	ask_agent(leaf, bpf_skb_ancestor_cgroup_id(skb, config->pod_level[0]),
		  bpf_skb_ancestor_cgroup_id(skb, config->pod_level[1]), hook_of(way));
	return way == DIRECTION_EGRESS && protocol != PROTOCOL_TCP ? 2 : 0;
}

/* The endpoint of a packet's socket. Its slot leads to its epoch, which must be read before it: so it is read twice
 * where `nearby` does not know the epoch.
 */
static __always_inline void endpoint_and_epoch(struct __sk_buff *skb, const struct config *config, __u64 leaf,
					       struct judged *out)
{
	struct place place;

	place_of(leaf, &place);
	out->epoch = place.epoch;
	out->endpoint = endpoint_of_skb(skb, config, leaf);
	if (place.known || !out->endpoint)
		return;
	__u32 slot = out->endpoint->slot;

	out->epoch = epoch_of(slot);
	out->endpoint = endpoint_of_skb(skb, config, leaf);
	if (out->endpoint && out->endpoint->slot != slot)
		out->epoch = 0;
}

static __always_inline struct promoted *storage_of_skb(struct __sk_buff *skb)
{
	struct bpf_sock *sk = full_socket(skb);

	return sk ? sockets.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
}

/* The network namespace of a packet's socket, kept with the socket. Where the kernel cannot be asked and `creators` does
 * not know (any more), a number that is this socket's alone. 0: there is no memory for it.
 */
static __always_inline __u64 network_of(struct __sk_buff *skb)
{
	struct promoted *s = storage_of_skb(skb);

	if (!s)
		return 0;
	if (!s->network) {
#ifdef HAVE_SKB_NETNS
		s->network = bpf_get_netns_cookie(skb);
#else
		__u64 cookie = bpf_get_socket_cookie(skb);
		struct creator creator = {};

		s->network = find_creator(cookie, &creator) && creator.network ? creator.network : cookie | 1ull << 63;
#endif
	}
	return s->network;
}

/* May this packet's socket answer a question that a socket of this network namespace got? What we asked has its answer
 * in each of them, since a task may ask it in each.
 */
static __always_inline int is_asked_here(struct __sk_buff *skb, const struct flow_key *key, __u64 network)
{
	return key->direction == DIRECTION_EGRESS || (network && network == network_of(skb));
}

/* The live flow, or its stand-in in `answers`, that a datagram may be an answer to. `stale`: it came too late. */
static __always_inline int asked_for(struct __sk_buff *skb, struct flow_key *key, __u32 slot,
				     const struct config *config, int *stale)
{
	struct flow *flow = flows.lookup(key);
	__u64 stamp, network;
	__u32 last;

	if (flow) {
		stamp = *(volatile __u64 *)&flow->stamp;
		network = *(volatile __u64 *)&flow->network;
		last = *(volatile __u32 *)&flow->last;
		if (!is_stamp_of(stamp, key) || stamp != *(volatile __u64 *)&flow->stamp)
			return 0;
	} else {
		struct answer *answer = find_answer(slot, key);

		if (!answer)
			return 0;
		stamp = *(volatile __u64 *)&answer->stamp;
		network = *(volatile __u64 *)&answer->network;
		last = *(volatile __u32 *)&answer->last;
		if (!is_stamp_of(stamp, key) || !keys_equal(&answer->key, key) ||
		    stamp != *(volatile __u64 *)&answer->stamp)
			return 0;
	}
	if (!is_asked_here(skb, key, network))
		return 0;
	if (answers_in_time(config, last, bpf_jiffies64()))
		return 1;
	*stale = 1;
	return 0;
}

static __always_inline void judge_direction(const struct endpoint *endpoint, const struct packet *packet, int direction,
					    struct rule *out)
{
	judge(endpoint, &packet->peer, packet->protocol,
	      direction == DIRECTION_EGRESS ? packet->remote_port : packet->local_port, direction, out);
}

/* Does a socket of the pod listen on the port that a packet comes to, or from? */
static __always_inline int is_listening(struct __sk_buff *skb, const struct packet *packet, int way)
{
	enum { SOURCE = 12, DESTINATION = 16 };
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *found;
	int listening;

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		if (bpf_skb_load_bytes(skb, way == DIRECTION_INGRESS ? DESTINATION : SOURCE, &tuple.ipv4.daddr, 4))
			return 0;
		tuple.ipv4.dport = packet->local_port;
		found = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.daddr, &packet->local, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.dport = packet->local_port;
		found = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!found)
		return 0;
	listening = found->state == SOCKET_LISTEN;
	bpf_sk_release(found);
	return listening;
}

/* Who opened the connection of a TCP packet's socket (P9): never whichever direction allows. What is known for certain
 * first: the handshake's state, the mark in the socket, the socket() call of the pod. What is left is older than
 * dagwall, or than its namespace's label: `flows`, and where it has neither direction or both, whether the pod listens
 * on this port.
 */
static __always_inline int opener_of(struct __sk_buff *skb, const struct packet *packet, int way, __u64 cgroup_id)
{
	struct bpf_sock *sk = skb->sk;
	struct flow_key key = { .cgroup_id = cgroup_id };
	struct creator creator = {};

	if (sk) {
		if (sk->state == SOCKET_LISTEN)
			return DIRECTION_INGRESS;
		if (sk->state == SOCKET_SYN_SENT)
			return DIRECTION_EGRESS;
		struct promoted *s = sockets.sk_storage_get(sk, 0, 0);

		if (s && s->opened)
			return s->opened == OPENED_BY_US ? DIRECTION_EGRESS : DIRECTION_INGRESS;
	}
	if (find_creator(bpf_get_socket_cookie(skb), &creator))
		return DIRECTION_EGRESS;
	int by_us = lookup_flow(packet, DIRECTION_EGRESS, 0, &key) != 0;
	int by_peer = lookup_flow(packet, DIRECTION_INGRESS, 0, &key) != 0;

	if (by_us != by_peer)
		return by_us ? DIRECTION_EGRESS : DIRECTION_INGRESS;
	return is_listening(skb, packet, way) ? DIRECTION_INGRESS : DIRECTION_EGRESS;
}

/* From its first packet on a socket knows who opened its connection; those that a listener accepts inherit its mark.
 * 0: there is no memory for the mark.
 */
static __always_inline int mark_opener(struct __sk_buff *skb, int direction)
{
	__u8 opened = direction == DIRECTION_EGRESS ? OPENED_BY_US : OPENED_BY_PEER;
	struct promoted *s = storage_of_skb(skb);

	if (!s)
		return 0;
	if (s->opened != opened)
		s->opened = opened;
	return 1;
}

/* TCP: who opened the connection decides which direction is judged. `key` becomes the key of the flow. */
static __always_inline void decide_stream(struct __sk_buff *skb, const struct endpoint *endpoint,
					  const struct packet *packet, int way, struct flow_key *key,
					  struct rule *out)
{
	__u64 cgroup_id = key->cgroup_id;
	int direction = opener_of(skb, packet, way, cgroup_id);
	int marked = mark_opener(skb, direction);

	if (packet->role == ROLE_OPENS)
		direction = way;
	flow_key_of(packet, cgroup_id, direction, 0, key);
	if (marked)
		judge_direction(endpoint, packet, direction, out);
	else
		out->reason = DROP_NOT_READY;
}

/* All else: an answer is good while its question is allowed and live, anything else is judged as a question (P9). What is
 * allowed as neither, but whose question a name may allow, is for decide_named.
 */
static __always_inline void decide_datagram(struct __sk_buff *skb, const struct endpoint *endpoint,
					    const struct packet *packet, int way, int connected,
					    const struct config *config, struct flow_key *key, struct rule *out)
{
	int known = packet->role != ROLE_REPLY && lookup_flow(packet, way, connected, key);
	int lift = LIFT_NONE, stale = 0;

	if (!known && packet->role != ROLE_OPENS) {
		flow_key_of(packet, key->cgroup_id, !way, connected, key);
		if (asked_for(skb, key, endpoint->slot, config, &stale)) {
			known = 1;
			judge_direction(endpoint, packet, !way, out);
			if (out->verdict != VERDICT_DENY)
				return;
			lift = out->lift;
		}
	}
	flow_key_of(packet, key->cgroup_id, way, connected, key);
	judge_direction(endpoint, packet, way, out);
	if (out->verdict == VERDICT_DENY && out->reason == DROP_NO_RULE && !known &&
	    (stale || packet->role == ROLE_REPLY))
		out->reason = DROP_NOT_A_REPLY;
	if (way == DIRECTION_INGRESS && out->verdict == VERDICT_DENY)
		out->lift = lift;
}

/* What we have opened, or would, and no rule on addresses allows: the names of the peer decide. */
static __always_inline void decide_named(const struct endpoint *endpoint, const struct packet *packet, int connected,
					 struct flow_key *key, struct rule *out)
{
	flow_key_of(packet, key->cgroup_id, DIRECTION_EGRESS, connected, key);
	judge_names(endpoint, key, out);
}

/* An IPv6 socket may be bound to an address that its namespace does not have (IPV6_FREEBIND); IPv4 lets none out. By
 * such a one a pod on the host's network would ask itself in a peer's name, and "answer" the peer.
 */
static __always_inline int is_foreign_source(struct __sk_buff *skb, const struct endpoint *endpoint,
					     const struct address *local)
{
	struct prefix prefix = { .length = 128, .address = *local };

	if (skb->protocol != bpf_htons(ETHERTYPE_IPV6) || address_is_link_local(local) || address_is_zero(local))
		return 0;
	struct classes *known = hosts.lookup(&prefix);

	if (endpoint->flags & ENDPOINT_HOST_NETWORK)
		return !address_is_loopback(local) && !(known && known->flags & ADDRESS_OF_HOST);
	if (!address_is_zero(&endpoint->own[1]))
		return !address_equal(local, &endpoint->own[1]);
	return known != 0;
}

/* Is this the socket of a TCP connection, not a listener's or one that has just asked? */
static __always_inline int is_connection(struct bpf_sock *sk)
{
	__u32 state = sk->state;

	return state != SOCKET_SYN_SENT && state != SOCKET_SYN_RECEIVED && state != SOCKET_LISTEN &&
	       state != SOCKET_NEW_SYN_RECEIVED;
}

/* Why a packet is denied whatever the rules are; DROP_NONE: they decide. */
static __always_inline __u8 defect_of(struct __sk_buff *skb, const struct endpoint *endpoint,
				      const struct packet *packet, int way)
{
	if (packet->reason)
		return packet->reason;
	if (!(endpoint->flags & ENDPOINT_HOST_NETWORK) && address_is_loopback(&packet->peer))
		return DROP_LOOPBACK; /* by another device than lo: lo's packets are not judged */
	if (way == DIRECTION_EGRESS && is_foreign_source(skb, endpoint, &packet->local))
		return DROP_FOREIGN_SOURCE;
	return DROP_NONE;
}

static __always_inline void event_of_packet(struct __sk_buff *skb, const struct endpoint *endpoint,
					    const struct packet *packet, const struct flow_key *key, int way,
					    struct event *out)
{
	out->cgroup_id = key->cgroup_id;
	if (way == DIRECTION_EGRESS || packet->role != ROLE_OPENS) /* a SYN that comes is no word about the socket it meets */
		out->socket_cookie = bpf_get_socket_cookie(skb);
	out->peer = packet->peer;
	out->protocol = packet->protocol;
	out->direction = key->direction;
	out->service_port = key->direction == DIRECTION_EGRESS ? packet->remote_port : packet->local_port;
	out->client_port = key->direction == DIRECTION_EGRESS ? packet->local_port : packet->remote_port;
	out->hook = hook_of(way);
	out->identity = endpoint->identity;
	out->slot = endpoint->slot;
	out->length = skb->len;
}

/* The first packet of a flow, or the first after its verdict was called into question. `flow` is null without room. */
static __always_inline void count_first(struct flow *flow, struct __sk_buff *skb, const struct packet *packet,
					__u32 identity, int direction, int way, int fresh)
{
	__u32 packets = segments(skb);
	int opens = fresh; /* connections that we open are counted in connect(), unless the endpoint was pending then */

	if (packet->protocol == PROTOCOL_TCP)
		opens = packet->role == ROLE_OPENS && (way == DIRECTION_INGRESS || fresh);

	count_identity(identity, direction, way, packets, skb->len);
	if (opens)
		count_identity_connection(identity, direction);
	if (!flow)
		return;
	count_traffic(&flow->traffic[way], packets, skb->len);
	if (opens)
		__sync_fetch_and_add(&flow->connections, 1);
	flow->last = bpf_jiffies64();
}

/* Is what a packet's connection carries still to be judged? A SYN without data has its connection counted first. */
static __always_inline int awaits_hello(struct __sk_buff *skb, const struct packet *packet, const struct rule *rule,
					__u32 epoch)
{
	__u32 ports, data;

	if (!(rule->hellos | rule->requests))
		return 0;
	struct promoted *s = storage_of_skb(skb);

	if (s && is_zero(s->greeted ^ epoch) & (1 - is_zero(epoch)))
		return 0;
	data = packet->role == ROLE_OPENS ? stream_at(skb, &ports) : 0;
	return !data || skb->len > data;
}

static __always_inline int slow_path(struct __sk_buff *skb, int way, int tail)
{
	struct config *config = configuration();
	struct packet packet = {};
	struct flow_key key = {};
	struct judged judged = {};
	struct rule rule = {};
	int connected = 0;

	if (!config)
		return 0;
	key.cgroup_id = bpf_skb_cgroup_id(skb);
	endpoint_and_epoch(skb, config, key.cgroup_id, &judged);
	struct endpoint *endpoint = judged.endpoint;

	if (endpoint && endpoint->state == STATE_UNMANAGED)
		return 1;
	parse_full(skb, way, &packet);
	asm volatile("" : : "r"(&packet) : "memory"); /* or each field has a place on the stack of its own, of 8 bytes */
	if (!endpoint || endpoint->state == STATE_PENDING)
		return hold_back(skb, config, key.cgroup_id, way, packet.protocol);
	if (skb->ifindex == LOOPBACK_DEVICE && !(endpoint->flags & ENDPOINT_HOST_NETWORK))
		return 1; /* it stays in the pod (P7) */
	int is_stream = packet.protocol == PROTOCOL_TCP;

	if (tail != TAIL_NAMED && is_stream != (tail == TAIL_STREAM)) {
		call_tail(skb, way, is_stream ? TAIL_STREAM : TAIL_DATAGRAM); /* the fast path could not tell */
		return tail_missing(skb, key.cgroup_id, way);
	}
	struct bpf_sock *sk = skb->sk;

	if (sk) {
		connected = sk->dst_port != 0;
		if (way == DIRECTION_INGRESS && packet.role == ROLE_OPENS && is_connection(sk))
			packet.role = ROLE_ANY; /* a SYN in the middle opens nothing: the stack answers with an ACK */
	}
	rule.reason = defect_of(skb, endpoint, &packet, way);
	if (rule.reason)
		flow_key_of(&packet, key.cgroup_id, way, connected, &key);
	else if (tail == TAIL_STREAM)
		decide_stream(skb, endpoint, &packet, way, &key, &rule);
	else if (tail == TAIL_DATAGRAM)
		decide_datagram(skb, endpoint, &packet, way, connected, config, &key, &rule);
	else
		decide_named(endpoint, &packet, connected, &key, &rule);
	if (tail != TAIL_NAMED && rule.lift) {
		call_tail(skb, way, TAIL_NAMED);
		return tail_missing(skb, key.cgroup_id, way);
	}
	union { /* the stack is small */
		struct event event;
		struct flow fresh;
	} room = {};

	if (rule.verdict == VERDICT_DENY) {
		event_of_packet(skb, endpoint, &packet, &key, way, &room.event);
		record_denial(config, &room.event, &rule, segments(skb));
		return 0;
	}
	__u64 stamp = stamp_of(&key, judged.epoch);
	struct flow *before = flows.lookup(&key);
	int fresh = !before;
	int first_audit = rule.verdict == VERDICT_AUDIT && (!before || before->stamp != stamp);
	__u64 network = tail != TAIL_DATAGRAM || key.direction == DIRECTION_EGRESS ? 0 : network_of(skb);
	struct flow *flow =
		remember(&key, config, &judged, &rule, tag_of_address(&packet.local), network, &room.fresh);

	if (!flow && !is_stream)
		remember_answer(&key, endpoint->slot, config, stamp, network);
	if (first_audit) {
		room.event = (struct event){};
		event_of_packet(skb, endpoint, &packet, &key, way, &room.event);
		record_audit(config, &room.event, &rule);
	}
	if (tail != TAIL_DATAGRAM && way == DIRECTION_EGRESS && awaits_hello(skb, &packet, &rule, judged.epoch)) {
		call_tail(skb, way, rule.requests ? TAIL_REQUEST : TAIL_HELLO);
		return tail_missing(skb, key.cgroup_id, way);
	}
	count_first(flow, skb, &packet, endpoint->identity, key.direction, way, fresh && flow);
	return pass(skb, &packet, way);
}

/* The masks are for the verifier: it wants to know that no other value is returned. */
int datagram_egress(struct __sk_buff *skb)
{
	return slow_path(skb, DIRECTION_EGRESS, TAIL_DATAGRAM) & 3;
}

int datagram_ingress(struct __sk_buff *skb)
{
	return slow_path(skb, DIRECTION_INGRESS, TAIL_DATAGRAM) & 1;
}

int stream_egress(struct __sk_buff *skb)
{
	return slow_path(skb, DIRECTION_EGRESS, TAIL_STREAM) & 3;
}

int stream_ingress(struct __sk_buff *skb)
{
	return slow_path(skb, DIRECTION_INGRESS, TAIL_STREAM) & 1;
}

int named_egress(struct __sk_buff *skb)
{
	return slow_path(skb, DIRECTION_EGRESS, TAIL_NAMED) & 3;
}

int named_ingress(struct __sk_buff *skb)
{
	return slow_path(skb, DIRECTION_INGRESS, TAIL_NAMED) & 1;
}
