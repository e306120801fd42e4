// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Whose a packet, a call or a socket is, and in which epoch. */

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

static __always_inline struct bpf_sock *full_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : 0;
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
