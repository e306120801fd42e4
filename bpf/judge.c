// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* From an endpoint and a peer to a rule, and from a rule to an entry of `flows`. Off the fast path. */

static __always_inline struct config *configuration(void)
{
	int zero = 0;
	struct config *found = config.lookup(&zero);

	if (!found)
		count_loss(LOSS_IMPOSSIBLE, 1);
	return found;
}

static __always_inline struct endpoint *endpoint_at(__u64 cgroup_id)
{
	struct folder key = { .length = 64 };

	__builtin_memcpy(key.cgroup_id, &cgroup_id, sizeof(cgroup_id));
	return endpoints.lookup(&key);
}

static __always_inline struct endpoint *endpoint_of_skb(struct __sk_buff *skb, const struct config *config, __u64 leaf)
{
	struct endpoint *endpoint = endpoint_at(leaf);

	if (!endpoint)
		endpoint = endpoint_at(bpf_skb_ancestor_cgroup_id(skb, config->pod_level[0]));
	if (!endpoint)
		endpoint = endpoint_at(bpf_skb_ancestor_cgroup_id(skb, config->pod_level[1]));
	return endpoint;
}

static __always_inline struct endpoint *endpoint_of_task(const struct config *config, __u64 leaf)
{
	struct endpoint *endpoint = endpoint_at(leaf);

	if (!endpoint)
		endpoint = endpoint_at(bpf_get_current_ancestor_cgroup_id(config->pod_level[0]));
	if (!endpoint)
		endpoint = endpoint_at(bpf_get_current_ancestor_cgroup_id(config->pod_level[1]));
	return endpoint;
}

/* Of a socket's maker, where the calling task is not it, only the folder is known (L7). */
static __always_inline struct endpoint *endpoint_of_maker(const struct config *config, __u64 maker, __u64 task)
{
	return maker == task ? endpoint_of_task(config, task) : endpoint_at(maker);
}

static __always_inline int agent_is_gone(const struct config *config)
{
	return bpf_ktime_get_ns() - config->heartbeat_ns > config->loss_grace_ns;
}

/* The agent is gone, and unknown pods are denied then (L6): counted for nobody, since nobody knows whose it is. */
static __always_inline int denied_by_agent_loss(const struct config *config, int direction, __u32 length)
{
	struct rule rule = { .reason = DROP_AGENT_GONE };
	struct event nobody = { .direction = direction, .length = length };

	if (!config->loss_denies || !agent_is_gone(config))
		return 0;
	count_denial(&nobody, &rule, 1);
	return 1;
}

/* One place on the stack for keys that are not needed at the same time. */
union any_key {
	struct prefix prefix;
	struct rule_key rule;
	struct learned_key learned;
};

static __always_inline void classify(const struct address *peer, union any_key *key, struct classes *out)
{
	key->prefix.length = 128;
	key->prefix.address = *peer;
	struct classes *classes = hosts.lookup(&key->prefix);

	if (!classes)
		classes = peers.lookup(&key->prefix);
	if (classes) {
		*out = *classes;
	} else {
		*out = (struct classes){};
	}
}

/* A ruleset's verdict on a class, a port and a direction; 0: it has none of its own. */
static __always_inline struct rule *find_row(__u32 ruleset, __u32 peer_class, __u32 port_index, int direction,
					     union any_key *key)
{
	key->rule = (struct rule_key){
		.length = 128,
		.ruleset = ruleset,
		.peer_class = peer_class,
		.direction = direction,
		.port_index = bpf_htonl(port_index),
	};
	return rules.lookup(&key->rule);
}

/* Its verdict on an address: two probes at most (model/want.py). */
static __always_inline void find_rule(const struct endpoint *endpoint, const struct classes *classes, __u8 protocol,
				      __be16 port, int direction, union any_key *key, struct rule *out)
{
	__u32 index = port_index(protocol, port);
	struct rule *rule = find_row(endpoint->ruleset, classes->peer, index, direction, key);

	if (!rule && classes->base != classes->peer)
		rule = find_row(endpoint->ruleset, classes->base, index, direction, key);
	*out = rule ? *rule : endpoint->defaults[direction & 1];
}

static __always_inline __u64 openness(__u8 verdict)
{
	return (3 - verdict) & -(1 - is_zero(verdict)); /* DENY, AUDIT, ALLOW */
}

/* What demands nothing comes before what does. */
static __always_inline __u64 rank(const struct rule *rule)
{
	return openness(rule->verdict) * 2 + is_zero(rule->hellos | rule->requests);
}

/* The best verdict on its names in place of an address's (enum lift). */
static __always_inline void lift(const struct rule *best, struct rule *out)
{
	if (rank(best) <= rank(out)) {
		if (out->lift != LIFT_BY_NAME && !(out->hellos | out->requests))
			out->rule = 0;
		return;
	}
	if (out->lift == LIFT_TO_AUDIT) {
		out->verdict = VERDICT_AUDIT;
		out->reason = DROP_DENY_RULE;
	} else if (out->lift == LIFT_TO_ALLOW) {
		out->verdict = VERDICT_ALLOW;
		out->reason = DROP_NONE;
	} else {
		*out = *best;
		return;
	}
	out->hellos = best->hellos;
	out->requests = best->requests;
	out->flags = best->flags;
}

enum { ASKED_REQUESTS = 0x80 };

/* A row that asks for something else denies, or audits. Without a branch, as it is done for each name of a peer. */
static __always_inline void hold_against(struct rule *row, struct hello *hello)
{
	__u64 fails = is_zero((row->hellos & hello->fits) | (row->requests & hello->requests)) &
		      (1 - is_zero(row->hellos | row->requests));
	__u64 audits = row->flags & RULE_AUDITS_HELLO;
	__u64 blames = fails & (1 - audits) & is_zero(hello->rule);

	hello->asked |= row->hellos;
	hello->rule |= row->rule & -blames;
	hello->failed |= fails << audits * VERDICT_AUDIT | (1 - is_zero(row->requests)) * ASKED_REQUESTS;
	row->verdict = (row->verdict & (fails - 1)) | (audits * VERDICT_AUDIT & -fails);
	row->hellos &= fails - 1;
	row->requests &= fails - 1;
}

_Static_assert(VERDICT_DENY == 0, "what hold_against makes of a row that does not audit");

/* The verdict of an endpoint on an address, a port and a direction. Where `out->lift` says so, the names that it knows
 * the address by may allow more: judge_names.
 */
static __always_inline void judge(const struct endpoint *endpoint, const struct address *peer, __u8 protocol,
				  __be16 port, int direction, struct rule *out)
{
	struct classes classes;
	union any_key key;

	if (endpoint->state == STATE_QUARANTINED) {
		*out = (struct rule){ .verdict = VERDICT_DENY, .reason = DROP_QUARANTINED };
		return;
	}
	classify(peer, &key, &classes);
	find_rule(endpoint, &classes, protocol, port, direction, &key, out);
}

/* The verdict on an address to which an endpoint opens, or on the names that it knows it by. While there is a flow of
 * this key, its names do not expire. `hello`: what its connection carries; null: nothing yet. What is demanded then is
 * what any of the rows asks for.
 */
static __always_inline void judge_by_names(const struct endpoint *endpoint, struct flow_key *flow, struct hello *hello,
					   struct rule *best, struct rule *out)
{
	__u32 index = port_index(flow->protocol, flow->service_port);
	__u32 first = first_learned(&flow->peer);
	union any_key key;
	__u32 asked;

	judge(endpoint, &flow->peer, flow->protocol, flow->service_port, DIRECTION_EGRESS, out);
	if (hello)
		hold_against(out, hello);
	if (!out->lift)
		return;
	asked = out->requests;
	__u64 now = flows.lookup(flow) ? 0 : bpf_ktime_get_ns();

#pragma clang loop unroll(disable)
	for (int i = 0; i < LEARNED_WAYS; i++) {
		key.learned = (struct learned_key){ .identity = endpoint->identity, .index = first + i };
		__u32 name_class = class_of_learned(&key.learned, &flow->peer, now);

		if (!name_class)
			continue;
		struct rule *rule = find_row(endpoint->ruleset, name_class, index, DIRECTION_EGRESS, &key);

		if (!rule)
			continue;
		struct rule row = *rule;

		if (hello)
			hold_against(&row, hello);
		asked |= row.requests;
		if (rank(&row) > rank(best))
			*best = row;
	}
	lift(best, out);
	if (out->hellos | out->requests)
		out->requests |= asked;
}

static __always_inline void judge_names(const struct endpoint *endpoint, struct flow_key *flow, struct rule *out)
{
	struct rule best = {};

	judge_by_names(endpoint, flow, 0, &best, out);
}

/* P7: what stays in the pod, known by its address. The skb hooks know it by the device. */
static __always_inline int is_own_address(const struct endpoint *endpoint, const struct address *address)
{
	return address_equal(address, &endpoint->own[0]) || address_equal(address, &endpoint->own[1]);
}

/* Who a packet or a call is judged for: the endpoint, and its epoch as it was before the endpoint was read. */
struct judged {
	struct endpoint *endpoint;
	__u32 epoch;
};

/* The epoch of an endpoint, read before anything that a verdict follows from: what is revoked meanwhile makes another
 * one, under which a verdict of before is never stored (P10).
 */
static __always_inline __u32 epoch_of(__u32 slot)
{
	int index = slot;
	struct epoch *epoch = epochs.lookup(&index);

	return epoch ? *(volatile __u32 *)&epoch->epoch : 0;
}

/* May the endpoint have one more entry for what was opened in this direction? Its own and others' are two shares (S1). */
static __always_inline struct slot *room_in_share(const struct config *config, __u32 number, int direction)
{
	int index = number;
	struct epoch *epoch = epochs.lookup(&index);
	struct slot *slot = slots.lookup(&index);

	if (!epoch || !slot)
		return 0;
	if ((__s32)(slot->inserted[direction & 1] - epoch->evicted[direction & 1]) < (__s32)config->flow_quota)
		return slot;
	count_loss(LOSS_FLOWS_QUOTA, 1);
	return 0;
}

static __always_inline __u8 inspection_of(const struct rule *rule)
{
	return (rule->hellos ? INSPECT_HELLO : 0) | (rule->requests ? INSPECT_REQUESTS : 0);
}

/* An entry of `flows` with this verdict; null where there is no room, which is counted and changes nothing. `local` is
 * the tag of our address; 0: not known. `network`: see struct flow. `fresh`: room for an entry.
 */
static __always_inline struct flow *remember(struct flow_key *key, const struct config *config,
					     const struct judged *judged, const struct rule *rule, __u32 local,
					     __u64 network, struct flow *fresh)
{
	const struct endpoint *endpoint = judged->endpoint;
	__u64 stamp = stamp_of(key, judged->epoch);
	struct flow *flow = flows.lookup(key);

	if (!flow) {
		struct slot *slot = room_in_share(config, endpoint->slot, key->direction);

		*fresh = (struct flow){
			.stamp = stamp,
			.slot = endpoint->slot,
			.identity = endpoint->identity,
			.rule = rule->rule,
			.last = bpf_jiffies64(),
			.first = bpf_jiffies64(),
			.local = local,
			.verdict = rule->verdict,
			.reason = rule->reason,
			.inspect = inspection_of(rule),
			.network = network,
		};

		if (!slot)
			return 0;
		if (flows.insert(key, fresh) == 0)
			__sync_fetch_and_add(&slot->inserted[key->direction & 1], 1);
		flow = flows.lookup(key);
		if (!flow)
			count_loss(LOSS_FLOWS_FULL, 1);
		return flow;
	}
	flow->slot = endpoint->slot;
	flow->identity = endpoint->identity;
	flow->rule = rule->rule;
	flow->verdict = rule->verdict;
	flow->reason = rule->reason;
	flow->inspect = inspection_of(rule);
	flow->last = bpf_jiffies64();
	if (local)
		flow->local = local;
	flow->network = network;
	*(volatile __u64 *)&flow->stamp = stamp;
	return flow;
}

/* The entry of `packet`, if its flow was opened in this direction; `key`, whose cgroup is known, becomes its key. */
static __always_inline struct flow *lookup_flow(const struct packet *packet, int direction, int connected,
						struct flow_key *key)
{
	flow_key_of(packet, key->cgroup_id, direction, connected, key);
	return flows.lookup(key);
}

static __always_inline int keys_equal(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

/* Where a datagram's flow is kept for want of room in `flows`, so that a question has its answer whoever fills the map,
 * and whether an agent lives or not. The first of the entries that a peer's questions may be in.
 */
static __always_inline __u32 first_answer(__u32 slot, const struct flow_key *key)
{
	__u32 set = set_of_address(&key->peer, ANSWER_SLOTS / ANSWER_WAYS);

	return ((slot & (ENDPOINT_SLOTS - 1)) * 2 + (key->direction & 1)) * ANSWER_SLOTS + set * ANSWER_WAYS;
}

static __always_inline struct answer *answer_at(__u32 index)
{
	int at = index;

	return answers.lookup(&at);
}

static __always_inline __u64 is_of_peer(const struct answer *answer, const struct flow_key *key)
{
	const __u64 *x = (const __u64 *)&answer->key.peer, *y = (const __u64 *)&key->peer;

	return is_zero((x[0] ^ y[0]) | (x[1] ^ y[1]));
}

static __always_inline __u64 has_tag(const struct answer *answer, const struct flow_key *key)
{
	return is_zero(*(volatile __u64 *)&answer->stamp >> 32 ^ tag_of_key(key));
}

static __always_inline struct answer *find_answer(__u32 slot, const struct flow_key *key)
{
	__u32 first = first_answer(slot, key);
	__u64 found = 0, way = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < ANSWER_WAYS; i++) {
		struct answer *answer = answer_at(first + i);

		if (!answer)
			return 0;
		__u64 is_it = has_tag(answer, key);

		found |= is_it;
		way |= -is_it & i;
	}
	return found ? answer_at(first + (way & (ANSWER_WAYS - 1))) : 0;
}

/* How well an entry may be given to a question: it is the question's own; it has expired; it is of the same peer, which
 * has its part already. Among equals the oldest.
 */
static __always_inline __u64 fitness_of(const struct answer *answer, const struct flow_key *key, __u64 crowded,
					const struct config *config)
{
	__u64 stamp = *(volatile __u64 *)&answer->stamp;
	__u64 age = (__u32)bpf_jiffies64() - *(volatile __u32 *)&answer->last;
	__u64 expired = (config->reply_ticks - age) >> 63 | is_zero(stamp);

	return has_tag(answer, key) << 34 | expired << 33 | (is_of_peer(answer, key) & crowded) << 32 |
	       (age & 0xffffffff);
}

/* The entry that a question takes. Whoever asks without end takes none of another peer's. */
static __always_inline struct answer *place_for_answer(__u32 slot, const struct flow_key *key,
						       const struct config *config)
{
	__u32 first = first_answer(slot, key);
	__u64 of_peer = 0, best = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < ANSWER_WAYS; i++) {
		struct answer *answer = answer_at(first + i);

		if (!answer)
			return 0;
		of_peer += is_of_peer(answer, key);
	}
	__u64 crowded = (ANSWERS_A_PEER - 1 - of_peer) >> 63;

#pragma clang loop unroll(disable)
	for (int i = 0; i < ANSWER_WAYS; i++) {
		struct answer *answer = answer_at(first + i);

		if (!answer)
			return 0;
		__u64 mine = fitness_of(answer, key, crowded, config) * ANSWER_WAYS + i;
		__u64 better = (best - mine) >> 63;

		asm volatile("" : "+r"(better));
		best += (mine - best) & -better;
	}
	return answer_at(first + (best & (ANSWER_WAYS - 1)));
}

static __always_inline void remember_answer(const struct flow_key *key, __u32 slot, const struct config *config,
					    __u64 stamp, __u64 network)
{
	struct answer *answer = place_for_answer(slot, key, config);

	if (!answer)
		return;
	*(volatile __u64 *)&answer->stamp = 0;
	answer->key = *key;
	answer->network = network;
	answer->last = bpf_jiffies64();
	*(volatile __u64 *)&answer->stamp = stamp;
}

/* Of an entry of `creators`: a mixture of what two processors wrote at once has none that fits. */
static __always_inline __u64 seal_of(const struct creator *c)
{
	return c->cookie * 0x9e3779b185ebca87ull + c->cgroup_id * 0xc2b2ae3d27d4eb4full +
	       c->network * 0x165667b19e3779f9ull + 1;
}

/* Who made the socket with this cookie; 0: another socket has taken the entry. */
static __always_inline int find_creator(__u64 cookie, struct creator *out)
{
	int index = cookie & (CREATOR_SLOTS - 1);
	struct creator *creator = creators.lookup(&index);

	if (!creator)
		return 0;
	*out = *creator;
	return out->cookie == cookie && out->seal == seal_of(out);
}

/* What `nearby` has of a cgroup. `state` is STATE_PENDING where it has nothing: look in `endpoints`. */
struct place {
	__u32 epoch;
	__u8 state;
	__u8 flags;
	__u8 known;
};

/* The entry may be given to another cgroup meanwhile: its id is read before and after. */
static __always_inline void place_of(__u64 cgroup_id, struct place *out)
{
	int index = cgroup_id & (NEARBY_SLOTS - 1);
	struct nearby *found = nearby.lookup(&index);

	out->known = 0;
	out->state = STATE_PENDING;
	out->flags = 0;
	out->epoch = 0;
	if (!found || *(volatile __u64 *)&found->cgroup_id != cgroup_id)
		return;
	__u32 epoch = *(volatile __u32 *)&found->epoch;
	__u8 state = *(volatile __u8 *)&found->state;
	__u8 flags = *(volatile __u8 *)&found->flags;

	if (*(volatile __u64 *)&found->cgroup_id != cgroup_id)
		return;
	out->epoch = epoch;
	out->state = state;
	out->flags = flags;
	out->known = 1;
}

/* Is a flow's verdict of the endpoint's current epoch? */
static __always_inline int is_current(__u32 epoch, __u32 slot, const struct place *place)
{
	return epoch && epoch == (place->known ? place->epoch : epoch_of(slot));
}

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
