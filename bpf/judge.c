// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* From an endpoint and a peer to a rule. Off the fast path. */

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
