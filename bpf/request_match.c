// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Which of the ruleset's requests a head is. */

/* Are the two names and ports by which a request calls its host the same? The other name may lack where a tunnel is asked
 * for, and its port where it is the usual one, or a tunnel's.
 */
static __always_inline int hosts_agree(const struct request *r, __u64 port)
{
	__u32 bytes = r->used[TEXT_AUTHORITY];
	__u64 other = r->number[NUMBER_HOST_PORT], differs = 0;

	if (!r->count[COUNTED_HOST])
		return 1;
	if (other != port && !(other == 0 && (r->count[COUNTED_TUNNEL] || port == 80)))
		return 0;
	if (r->used[TEXT_HOST] != bytes)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < HOST_BYTES; i++) {
		asm volatile("" : "+r"(bytes));
		if (i >= bytes)
			break;
		differs |= r->text[TEXT_AUTHORITY * TEXT_ROOM + i] ^ r->text[TEXT_HOST * TEXT_ROOM + i];
	}
	return !differs;
}

/* What a head as a whole has against it. Sets the port that a proxy is asked for. */
static __always_inline __u8 fault_of_head(struct request *r)
{
	enum { USUAL = 80, MOST_PORT = 65535 };
	__u32 tunnel = r->count[COUNTED_TUNNEL], hosts = r->count[COUNTED_HOST];
	__u32 lengths = r->count[COUNTED_LENGTH] + r->count[COUNTED_CODING];

	if (hosts > 1 || (!hosts && !tunnel) || r->number[NUMBER_HOST_PORT] > MOST_PORT)
		return DROP_BAD_HOST;
	if (lengths > 1 || (lengths && tunnel) || (r->count[COUNTED_CODING] && r->count[COUNTED_OLD]))
		return DROP_REQUEST_LENGTH;
	if (tunnel && r->made)
		return DROP_TUNNEL_EARLY; /* an answer to what came before would be taken for the proxy's */
	if (!tunnel && !r->count[COUNTED_ABSOLUTE])
		return DROP_NONE;
	__u64 port = r->number[NUMBER_AUTHORITY_PORT];

	if (!port && !tunnel)
		port = r->number[NUMBER_AUTHORITY_PORT] = USUAL;
	if (!port || port > MOST_PORT)
		return DROP_BROKEN_REQUEST;
	return hosts_agree(r, port) ? DROP_NONE : DROP_HOST_DISAGREES;
}

/* What `parts` has for the key's text of so many bytes, a part's kind included. */
static __always_inline struct parts *find_part(struct request *r, __u32 bytes)
{
	enum { RULESET_BITS = 32 };

	r->key.length = RULESET_BITS + (bytes < KEY_TEXT + 1 ? bytes : KEY_TEXT + 1) * 8;
	return parts.lookup(&r->key);
}

static __always_inline __u32 bits_of_part(struct request *r, __u32 bytes)
{
	struct parts *found = find_part(r, bytes);

	return found ? found->bits : 0;
}

/* By its method, with a 0 behind it. */
static __always_inline __u32 bits_of_method(struct request *r)
{
	r->text[r->used[TEXT_METHOD] & (METHOD_BYTES - 1)] = 0;
	r->key.bytes[0] = 'M';
	__builtin_memcpy(r->key.bytes + 1, r->text, METHOD_BYTES);
	return bits_of_part(r, r->used[TEXT_METHOD] + 2);
}

/* LLVM would copy it byte by byte, as it does not know how it is aligned. */
static __always_inline void copy_path(struct request *r)
{
	__u64 *to = (__u64 *)(r->key.bytes + 1);
	const __u64 *from = (const __u64 *)(r->text + TEXT_PATH * TEXT_ROOM);

#pragma unroll
	for (int i = 0; i < KEY_TEXT / 8; i++)
		to[i] = from[i];
}

/* By its path, from its beginning and, where that matters, from its end. */
static __always_inline __u32 bits_of_path(struct request *r, __u32 bits)
{
	__u32 first = TEXT_PATH * TEXT_ROOM, bytes = r->used[TEXT_PATH];

	r->text[(first + bytes) & (TEXT_BYTES - 1)] = 0;
	r->key.bytes[0] = 'P';
	copy_path(r);
	struct parts *found = find_part(r, bytes + 2);

	if (!found)
		return 0;
	bits &= found->bits;
	if (!(bits & found->from_behind))
		return bits;
	r->key.bytes[0] = 'E';
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < KEY_TEXT; i++) {
		asm volatile("" : "+r"(bytes));
		if (i >= bytes)
			break;
		__u32 from = first + bytes - 1 - i;

		asm volatile("" : "+r"(from));
		r->key.bytes[1 + i] = r->text[from & (TEXT_BYTES - 1)];
	}
	return bits & bits_of_part(r, bytes + 1);
}

/* By the port that a proxy is asked for. */
static __always_inline __u32 bits_of_port(struct request *r)
{
	__u32 port = r->number[NUMBER_AUTHORITY_PORT];

	if (!r->count[COUNTED_TUNNEL] && !r->count[COUNTED_ABSOLUTE])
		return ~0u;
	r->key.bytes[0] = r->count[COUNTED_TUNNEL] ? 'C' : 'A';
	r->key.bytes[1] = port >> 8;
	r->key.bytes[2] = port;
	return bits_of_part(r, 3);
}

/* By its host, a name reversed as in `servers`. An IPv6 address is no name. */
static __always_inline __u32 bits_of_host(struct request *r)
{
	enum { DOT = '.', RULESET_BITS = 32 };
	__u32 text = r->count[COUNTED_TUNNEL] ? TEXT_AUTHORITY : TEXT_HOST;
	__u32 first = text * TEXT_ROOM, bytes = r->used[text];

	r->key.length = RULESET_BITS;
	if (bytes <= HOST_BYTES && r->text[first & (TEXT_BYTES - 1)] != '[') {
#pragma clang loop unroll(disable)
		for (__u32 i = 0; i < HOST_BYTES; i++) {
			asm volatile("" : "+r"(bytes));
			if (i >= bytes)
				break;
			__u32 from = first + bytes - 1 - i;

			asm volatile("" : "+r"(from));
			__u64 byte = r->text[from & (TEXT_BYTES - 1)];

			r->key.bytes[i] = byte & (is_zero(byte ^ DOT) - 1);
		}
		asm volatile("" : "+r"(bytes));
		bytes &= 255;
		if (bytes > HOST_BYTES)
			bytes = HOST_BYTES;
		r->key.bytes[bytes] = 0;
		r->key.bytes[bytes + 1] = 0;
		r->key.length = RULESET_BITS + (bytes + 2) * 8;
	}
	struct servers *found = servers.lookup(&r->key);

	return found ? found->hosts : 0;
}

/* What comes behind a head that has passed. */
static __always_inline void head_ends(struct request *r, __u32 epoch)
{
	r->made++;
	r->epoch = epoch;
	r->in_head = r->cleared = r->whole = 0;
	r->state = 0;
	if (r->count[COUNTED_TUNNEL]) {
		r->carries = CARRIES_CONNECT;
	} else if (r->count[COUNTED_CODING]) {
		r->state = GRAMMAR_CHUNKS;
	} else {
		r->left = r->number[NUMBER_LENGTH];
	}
}

/* How many have passed before the one that is judged. */
static __always_inline __u32 requests_before(const struct request *r, __u32 step)
{
	return r->made - (step == STEP_AGAIN && !r->cleared);
}

/* Which of the ruleset's requests a head is. What has passed in this epoch on this connection passes again. */
int request_match(struct __sk_buff *skb)
{
	struct request *r = request_of(skb);
	struct config *config = configuration();
	struct judged judged = {};

	if (!r || !config)
		return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
	endpoint_and_epoch(skb, config, bpf_skb_cgroup_id(skb), &judged);
	if (!judged.endpoint)
		return 0; /* it comes again */
	__u8 fault = skb->cb[REQUEST_STEP] == STEP_AGAIN ? DROP_NONE : fault_of_head(r);

	if (fault)
		return request_fails(skb, r, fault);
	if (r->key.ruleset != judged.endpoint->ruleset && requests_before(r, skb->cb[REQUEST_STEP]))
		r->common = 0; /* bits of another ruleset: of those before the last nobody can tell */
	r->key.ruleset = judged.endpoint->ruleset;
	__u32 bits = bits_of_method(r);

	if (bits)
		bits = bits_of_path(r, bits);
	if (bits)
		bits &= bits_of_port(r);
	if (bits)
		bits &= bits_of_host(r);
	int again = bits && bits == r->bits && r->made && judged.epoch && r->epoch == judged.epoch;

	r->tried = bits;
	if (!again || skb->cb[REQUEST_STEP] != STEP_WHOLE)
		return request_tail(skb, skb->cb[REQUEST_STEP], TAIL_REQUESTED);
	head_ends(r, judged.epoch);
	return request_tail(skb, STEP_PASS, skb->cb[REQUEST_AT] < skb->len ? TAIL_REQUEST_READ : TAIL_REQUESTED);
}
