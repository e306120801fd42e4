// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* From a rule to an entry of `flows`. Off the fast path. */

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
