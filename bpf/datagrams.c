// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The map `answers`: which datagrams may be answered, where `flows` has no room for them. */

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
