// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Reads requests by the table `grammar`, each byte once. */

/* May the task still change what is in this packet? */
static __always_inline int shares_pages(struct __sk_buff *skb)
{
#ifdef HAVE_SHARED_FRAGS
	enum { HELPER_PROBE_READ_KERNEL = 113 };
	long (*read)(void *, __u32, const void *) = (long (*)(void *, __u32, const void *))HELPER_PROBE_READ_KERNEL;
	__u64 base = (__u64)skb, head = 0;
	__u32 end = 0;
	__u8 flags = SHARED_FRAG;

	if (read(&head, sizeof(head), (const void *)(base + SKB_HEAD_OFFSET)) ||
	    read(&end, sizeof(end), (const void *)(base + SKB_END_OFFSET)) ||
	    read(&flags, sizeof(flags), (const void *)(head + end + SHARED_FRAG_OFFSET)))
		return 1;
	return flags & SHARED_FRAG;
#else
	return 1;
#endif
}

/* One byte more of a text, of which each has a room of its own. 0: it is full. */
static __always_inline int put_byte(struct request *r, __u32 text, __u8 byte)
{
	text &= TEXTS - 1;
	__u32 used = r->used[text];

	if (used >= r->room[text])
		return 0;
	r->used[text] = used + 1;
	used += text * TEXT_ROOM;
	asm volatile("" : "+r"(used)); /* or LLVM leaves the mask out, which old verifiers want */
	r->text[used & (TEXT_BYTES - 1)] = byte;
	return 1;
}

/* 0: more digits than any length has. */
static __always_inline int put_digit(struct request *r, __u32 act, __u8 digit)
{
	__u32 at = (act - ACT_DIGIT) & (NUMBERS - 1);
	__u64 number = r->number[at];

	if (number >> 44)
		return 0;
	r->number[at] = number * (act == ACT_DIGIT_OF_CHUNK ? 16 : 10) + digit;
	return 1;
}

/* What a byte does. DROP_NONE: it goes on. */
static __always_inline __u8 take_act(struct request *r, const struct step *step)
{
	__u32 act = step->act;

	if (act < ACT_DIGIT)
		return put_byte(r, act - ACT_PUT, step->value) ? DROP_NONE : DROP_REQUEST_TOO_LONG;
	if (act < ACT_COUNT)
		return put_digit(r, act, step->value) ? DROP_NONE : DROP_REQUEST_LENGTH;
	if (act < ACT_HEAD_ENDS) {
		__u32 at = act - ACT_COUNT;

		asm volatile("" : "+r"(at));
		at &= 7;
		if (at < COUNTEDS)
			r->count[at]++;
		return DROP_NONE;
	}
	return act == ACT_FAIL ? step->value : DROP_NONE;
}

/* Is each of these eight bytes one that a header's value may have, but for tabulators? */
static __always_inline int is_text(__u64 word)
{
	const __u64 low = 0x7f7f7f7f7f7f7f7full, from_space = 0x6060606060606060ull;
	__u64 controls = ~((word & low) + from_space), deletes = ~(((word ^ low) & low) + low);

	return !((controls | deletes) & ~word & ~low);
}

/* Reads bytes of the block, until one ends a head or the line of a chunk, or fails: `act` says what, and `taken` where.
 * All of it is in the storage, since the verifier would follow what comes after for each value that it knows.
 */
static __always_inline void read_block(const struct grammar *table, struct request *r)
{
	r->act = ACT_NONE;
	*(volatile __u32 *)&r->taken = 0;
#pragma clang loop unroll(disable)
	for (int n = 0; n < BLOCK; n++) {
		__u32 i = *(volatile __u32 *)&r->taken, bytes = *(volatile __u32 *)&r->bytes;
		__u32 state = *(volatile __u8 *)&r->state;

		if (i >= bytes)
			break;
		asm volatile("" : "+r"(i));
		i &= BLOCK - 1;
		if (state == GRAMMAR_VALUE && i + sizeof(__u64) <= bytes && is_text(*(__u64 *)(r->block + i))) {
			*(volatile __u32 *)&r->taken = i + sizeof(__u64);
			continue;
		}
		__u32 at = state << 8 | r->block[i];

		asm volatile("" : "+r"(at));
		if (at >= GRAMMAR_STATES * 256)
			break;
		const struct step *step = (const struct step *)&table->steps[at];

		*(volatile __u8 *)&r->state = step->state;
		*(volatile __u32 *)&r->taken = i + 1;
		if (!step->act)
			continue;
		__u8 reason = take_act(r, step);

		if (!reason && step->act < ACT_HEAD_ENDS)
			continue;
		r->fault = reason;
		r->act = reason ? ACT_FAIL : step->act;
		break;
	}
}

/* Has TCP more to send behind this packet, so that its head will not come whole? */
static __always_inline int is_cut(struct __sk_buff *skb)
{
	struct bpf_sock *sk = full_socket(skb);
	__u32 end = skb->cb[REQUEST_SEQUENCE] + (skb->len - skb->cb[REQUEST_DATA]);

	return sk && write_sequence(sk, end) != end;
}

/* The packet ends here. */
static __always_inline int packet_ends(struct __sk_buff *skb, struct request *r)
{
	if (!r->in_head || r->cleared)
		return request_tail(skb, STEP_PASS, TAIL_REQUESTED);
	if (!is_cut(skb))
		return request_tail(skb, STEP_PART, TAIL_REQUESTED);
	if (!r->count[COUNTED_HOST])
		return request_fails(skb, r, DROP_REQUEST_TOO_LONG);
	return request_tail(skb, STEP_CLEAR, TAIL_REQUEST_MATCH);
}

/* Reads on from REQUEST_AT. */
int request_read(struct __sk_buff *skb)
{
	struct request *r = request_of(skb);
	__u32 at = skb->cb[REQUEST_AT], end = skb->len, checked = 0;
	int zero = 0;
	struct grammar *table = grammar.lookup(&zero);

	if (!r || !table)
		return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
#pragma clang loop unroll(disable)
	for (int i = 0; i < BLOCKS; i++) {
		if (at >= end)
			break;
		__u32 bytes = end - at;

		if (r->left) {
			__u64 skipped = r->left < bytes ? r->left : bytes;

			r->left -= skipped;
			r->next += skipped;
			at += skipped;
			if (at >= end)
				break;
			bytes = end - at;
		}
		if (!checked && shares_pages(skb))
			return request_fails(skb, r, DROP_SHARED_PAGES);
		checked = 1;
		if (!r->state && !r->in_head)
			head_begins(r);
		if (bytes > BLOCK)
			bytes = BLOCK;
		asm volatile("" : "+r"(bytes)); /* the verifier of 5.10 wants the mask below, which LLVM would leave out */
		if (bpf_skb_load_bytes(skb, at, r->block, ((bytes - 1) & (BLOCK - 1)) + 1))
			return request_fails(skb, r, DROP_BROKEN_REQUEST);
		*(volatile __u32 *)&r->bytes = bytes;
		read_block(table, r);
		__u32 taken = *(volatile __u32 *)&r->taken;
		__u8 act = *(volatile __u8 *)&r->act;

		at += taken;
		r->next += taken;
		if (act == ACT_FAIL)
			return request_tail(skb, STEP_FAULT, TAIL_REQUESTED);
		if (act == ACT_HEAD_ENDS) {
			skb->cb[REQUEST_AT] = at;
			r->whole = 1;
			return request_tail(skb, STEP_WHOLE, TAIL_REQUEST_MATCH);
		}
		if (act == ACT_CHUNK && r->state) { /* else the chunks have ended */
			r->left = r->number[NUMBER_CHUNK];
			r->number[NUMBER_CHUNK] = 0;
			if (!r->left)
				r->state = GRAMMAR_TRAILER;
		}
		if (r->in_head && r->next - r->start > MOST_HEAD)
			return request_fails(skb, r, DROP_REQUEST_TOO_LONG);
	}
	skb->cb[REQUEST_AT] = at;
	if (at < end)
		return request_tail(skb, STEP_PASS, TAIL_REQUEST_READ);
	return packet_ends(skb, r);
}
