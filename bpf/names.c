// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The names that an identity knows an address by. dns.c learns them, judge.c asks for them.
 *
 * An entry is one address for one name. It has the name's text, not its class: what policies make of a name may change,
 * and nothing that was learned is forgotten or written again for it.
 */

/* Of so many bytes as a register holds: each that is zero has its highest bit set, all other bits are zero. */
static __always_inline __u64 zero_bytes(__u64 word)
{
	const __u64 low = 0x7f7f7f7f7f7f7f7full;

	return ~(((word & low) + low) | word | low);
}

/* ASCII letters in lower case. Bytes above 127 stay as they are (RFC 4343). */
static __always_inline __u64 lower_case(__u64 word)
{
	const __u64 low = 0x7f7f7f7f7f7f7f7full;
	__u64 ascii = word & low;
	__u64 from_a = ascii + 0x3f3f3f3f3f3f3f3full; /* 128 - 'A' */
	__u64 after_z = ascii + 0x2525252525252525ull; /* 127 - 'Z' */

	return word | ((from_a & ~after_z & ~word & ~low) >> 2);
}

static __always_inline __u64 mixed(__u64 seal, __u64 word)
{
	seal = (seal ^ word) * 0x9e3779b97f4a7c15ull;
	return seal ^ seal >> 29;
}

static __always_inline __u64 seal_of_address(__u64 seal, const struct address *address)
{
	seal = mixed(seal, (__u64)address->word[0] << 32 | address->word[1]);
	return mixed(seal, (__u64)address->word[2] << 32 | address->word[3]) | 1;
}

static __always_inline __u64 seal_of_learned(const struct learned_key *key, const struct address *address)
{
	return seal_of_address((__u64)key->identity << 32 | key->index, address);
}

/* The first of the entries that an address may be in. */
static __always_inline __u32 first_learned(const struct address *address)
{
	return set_of_address(address, LEARNED_SETS) * LEARNED_WAYS;
}

/* The class of an entry's name. 0: the entry is not this address's, has expired, or no rule is on its name. */
static __always_inline __u32 class_of_learned(struct learned_key *key, const struct address *peer, __u64 now)
{
	__u64 seal = seal_of_learned(key, peer);
	struct learned *entry = learned.lookup(key);

	if (!entry || *(volatile __u64 *)&entry->seal != seal || !address_equal(&entry->address, peer) ||
	    entry->expires < now)
		return 0;
	struct classes *classes = names.lookup(&entry->text);

	if (!classes || *(volatile __u64 *)&entry->seal != seal) /* another name may have been read */
		return 0;
	return classes->peer;
}
