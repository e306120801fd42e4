// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* From an endpoint and a peer to a rule, and from a rule to an entry of `flows`. Off the fast path. */

static __always_inline struct config *configuration(void)
{
	int zero = 0;

	return config.lookup(&zero);
}

static __always_inline struct endpoint *endpoint_of_skb(struct __sk_buff *skb, const struct config *config, __u64 leaf)
{
	struct endpoint *endpoint = endpoints.lookup(&leaf);

	if (endpoint)
		return endpoint;
	leaf = bpf_skb_ancestor_cgroup_id(skb, config->pod_level[0]);
	endpoint = endpoints.lookup(&leaf);
	if (endpoint)
		return endpoint;
	leaf = bpf_skb_ancestor_cgroup_id(skb, config->pod_level[1]);
	return endpoints.lookup(&leaf);
}

static __always_inline struct endpoint *endpoint_of_task(const struct config *config, __u64 leaf)
{
	struct endpoint *endpoint = endpoints.lookup(&leaf);

	if (endpoint)
		return endpoint;
	leaf = bpf_get_current_ancestor_cgroup_id(config->pod_level[0]);
	endpoint = endpoints.lookup(&leaf);
	if (endpoint)
		return endpoint;
	leaf = bpf_get_current_ancestor_cgroup_id(config->pod_level[1]);
	return endpoints.lookup(&leaf);
}

static __always_inline int agent_is_gone(const struct config *config)
{
	return bpf_ktime_get_ns() - config->heartbeat_ns > config->loss_grace_ns;
}

/* The agent is gone, and unknown pods are denied then (L6): counted for nobody, since nobody knows whose it is. */
static __always_inline int denied_for_want_of_an_agent(const struct config *config, int direction, __u32 length)
{
	struct rule rule = { .reason = DROP_AGENT_GONE };
	struct subject nobody = { .direction = direction, .length = length };

	if (!config->loss_denies || !agent_is_gone(config))
		return 0;
	count_denial(&nobody, &rule, 1);
	return 1;
}

static __always_inline void classify(const struct address *peer, struct classes *out)
{
	struct address key = *peer;
	struct classes *classes = hosts.lookup(&key);

	if (!classes) {
		struct prefix prefix = { .length = 128, .address = *peer };

		classes = peers.lookup(&prefix);
	}
	if (classes) {
		*out = *classes;
	} else {
		out->peer = 0;
		out->base = 0;
	}
}

/* The verdict of an endpoint's ruleset on a peer, a port and a direction: four probes at most (model/want.py). */
static __always_inline void judge(const struct endpoint *endpoint, const struct address *peer, __u8 protocol,
				  __be16 port, int direction, struct rule *out)
{
	struct classes classes;
	int index = port_index(protocol, port);
	__u32 any = unmentioned_port_class(protocol);
	__u64 *mentioned = ports.lookup(&index);
	__u32 port_class = mentioned && *mentioned ? *mentioned : any;
	struct rule *rule = 0;

	if (endpoint->state == STATE_QUARANTINED) {
		*out = (struct rule){ .verdict = VERDICT_DENY, .reason = DROP_QUARANTINED };
		return;
	}
	classify(peer, &classes);
	struct rule_key key = { .ruleset = endpoint->ruleset, .peer_class = classes.peer, .direction = direction };

	key.port_class = port_class;
	rule = rules.lookup(&key);
	if (!rule && port_class != any) {
		key.port_class = any;
		rule = rules.lookup(&key);
	}
	if (!rule && classes.base != classes.peer) {
		key.peer_class = classes.base;
		key.port_class = port_class;
		rule = rules.lookup(&key);
		if (!rule && port_class != any) {
			key.port_class = any;
			rule = rules.lookup(&key);
		}
	}
	*out = rule ? *rule : endpoint->defaults[direction & 1];
}

/* An entry of `flows` with this verdict; null where there is no room, which is counted and changes nothing. */
static __always_inline struct flow *remember(struct flow_key *key, const struct config *config,
					     const struct endpoint *endpoint, const struct rule *rule)
{
	struct flow *flow = flows.lookup(key);
	int index = endpoint->slot;
	struct epoch *epoch = epochs.lookup(&index);

	if (!epoch)
		return 0;
	if (!flow) {
		struct slot *slot = slots.lookup(&index);
		struct flow fresh = { .first = bpf_jiffies64() };

		if (!slot || (__s32)(slot->inserted - epoch->evicted) >= (__s32)config->flow_quota) {
			count_loss(LOSS_FLOWS_QUOTA, 1);
			return 0;
		}
		if (flows.insert(key, &fresh) == 0)
			__sync_fetch_and_add(&slot->inserted, 1);
		flow = flows.lookup(key);
		if (!flow) {
			count_loss(LOSS_FLOWS_FULL, 1);
			return 0;
		}
	}
	flow->slot = endpoint->slot;
	flow->identity = endpoint->identity;
	flow->rule = rule->rule;
	flow->verdict = rule->verdict;
	flow->reason = rule->reason;
	flow->last = bpf_jiffies64();
	flow->epoch = epoch->epoch;
	return flow;
}

static __always_inline struct nearby *nearby_of(__u64 cgroup_id)
{
	int index = cgroup_id & (NEARBY_SLOTS - 1);
	struct nearby *found = nearby.lookup(&index);

	return found && found->cgroup_id == cgroup_id ? found : 0;
}

/* Has the verdict of a flow not been called into question since it was given? `near` saves a lookup. */
static __always_inline int is_current(__u32 epoch, __u32 slot, const struct nearby *near)
{
	int index = slot;

	if (near)
		return near->epoch == epoch;
	struct epoch *now = epochs.lookup(&index);

	return now && now->epoch == epoch;
}

/* An unknown cgroup: the agent is asked once (the entry in `pending` remembers that). */
static __always_inline void ask_agent(__u64 leaf, __u64 ancestor, __u64 other_ancestor, __u8 hook)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 *asked = pending.lookup(&leaf);

	if (asked && now - *asked < 1000000000ull)
		return;
	if (asked)
		*asked = now;
	else if (pending.update(&leaf, &now))
		count_loss(LOSS_PENDING_FULL, 1);
	struct event *event = events.ringbuf_reserve(sizeof(struct event));

	if (!event) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = now;
	event->cgroup_id = leaf;
	event->ancestors[0] = ancestor;
	event->ancestors[1] = other_ancestor;
	event->reason = DROP_PENDING;
	event->kind = EVENT_PENDING;
	event->hook = hook;
	events.ringbuf_submit(event, 0);
}
