// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Reads the server name of a ClientHello. */

/* 1: a letter, digit, '-', '_' or '.'; without a branch, of which the verifier would follow both sides for each byte. */
static __always_inline __u64 is_of_name(__u64 byte)
{
	const __u64 low = 0x03ff600000000000ull, high = 0x07fffffe87fffffeull;
	__u64 upper = -(byte >> 6 & 1);

	asm volatile("" : "+r"(upper));
	return ((high & upper) | (low & ~upper)) >> (byte & 63) & 1 & ~(byte >> 7);
}

static __always_inline __u64 in_lower_case(__u64 byte)
{
	const __u64 letters = 0x07fffffeull; /* 'A' to 'Z', from '@' on */

	return byte | (letters >> (byte & 31) & (byte >> 6) & ~(byte >> 5) & 1) << 5;
}

/* The name as a key of `servers`: reversed, labels apart by a 0. 0: it is no name.
 * The verifiers follow it because `length` stays in one register, 64 bits wide: what the loop has compared bounds what
 * is written.
 */
static __always_inline int write_key(const __u8 *name, __u64 length, struct greeting *g)
{
	enum { DOT = '.', ENDS = 2 };
	__u64 good = 1, before_is_dot = 1;

	asm volatile("" : "+r"(length));
	if (length > SERVER_BYTES - ENDS)
		return 0;
#pragma clang loop unroll(disable)
	for (__u64 i = 0; i < SERVER_BYTES - ENDS; i++) {
		asm volatile("" : "+r"(length));
		if (i >= length)
			break;
		__u64 byte = name[i];
		__u64 is_dot = is_zero(byte ^ DOT);

		good &= is_of_name(byte) & ~(before_is_dot & is_dot);
		before_is_dot = is_dot;
		g->key.bytes[length - 1 - i] = in_lower_case(byte) & (is_dot - 1);
	}
	g->key.bytes[length] = 0;
	g->key.bytes[length + 1] = 0;
	g->key.length = RULESET_BITS + (length + ENDS) * 8;
	return good & ~before_is_dot;
}

/* The bytes of the server name, which lie in one record or in several. */
static __always_inline int load_name(struct __sk_buff *skb, struct cursor *c, __u32 bytes, __u8 *out)
{
	if (bytes <= c->left) {
		asm volatile("" : "+r"(bytes)); /* the verifier of 5.10 wants the mask below, which LLVM would leave out */
		return bpf_skb_load_bytes(skb, c->at, out, ((bytes - 1) & 255) + 1);
	}
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < MOST_NAME; i++) {
		asm volatile("" : "+r"(bytes)); /* or LLVM counts to it alone, which the verifier cannot follow */
		if (i >= bytes)
			break;
		int state = take_byte(skb, c, skb->len, &out[i]);

		if (state)
			return state;
	}
	return 0;
}

/* The server name of a hello that is in this packet as a whole. */
int hello_name(struct __sk_buff *skb)
{
	struct cursor c = { .at = skb->cb[WORD_AT], .left = skb->cb[WORD_LEFT], .records = skb->cb[WORD_RECORDS] };
	__u32 bytes = skb->cb[WORD_BYTES];
	struct bpf_sock *sk = full_socket(skb);
	__u8 name[256];

	struct greeting *g = sk ? greetings.sk_storage_get(sk, 0, 0) : 0;

	if (!g)
		return 0;
	if (load_name(skb, &c, bytes, name))
		g->fault = DROP_BROKEN_HELLO;
	else if (write_key(name, bytes, g))
		g->fault = DROP_NONE;
	tail_egress.call(skb, TAIL_GREETED);
	return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
}
