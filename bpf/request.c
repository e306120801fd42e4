// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* What a TCP connection carries, where only rules with `http` allow it: requests of HTTP/1 (RFC 9112), one by one.
 *
 * Tail-called in egress for every packet of such flows. Its bytes are read in the order of the stream, each once, by the
 * table `grammar`, and a packet leaves only when all requests in it were read to the end of their heads, and each was
 * allowed; bodies pass by their length. A packet that ends within a head is dropped: what TCP has not sent stays in its
 * queue, and is sent together with what is written later. So no byte of a head leaves that was not judged, whatever path
 * wrote it. A head that TCP has split for good passes in parts once its target and its Host were judged.
 *
 * What was read cannot change any more: TCP keeps it in memory of its own. Pages that a task may still write to (sendfile,
 * splice, MSG_ZEROCOPY) carry bodies only.
 *
 * Returns 1: passes; 0: dropped. What is denied is ended by the agent, which the event tells.
 */

/* In the packet's control block, from one program to the next. */
enum request_word { REQUEST_STEP = 0, REQUEST_AT = 1, REQUEST_SEQUENCE = 2, REQUEST_DATA = 3 };

/* Why a request is to be judged, or what is to become of the packet. */
enum request_step {
	STEP_PASS = 0,   /* all of it may */
	STEP_WHOLE = 1,  /* a head is whole; the next byte is at REQUEST_AT */
	STEP_PART = 2,   /* the packet ends within a head */
	STEP_CLEAR = 3,  /* TCP has split this head, but what decides has come */
	STEP_FAULT = 4,
	STEP_AGAIN = 5,  /* a new epoch: what was allowed before */
};

enum request_limit {
	BLOCK = BLOCK_BYTES,
	BLOCKS = 6,       /* of one run */
	MOST_HEAD = 32768,
	KEY_TEXT = 248, /* behind a part's kind: more than any pattern has; a multiple of 8 */
};

static __always_inline struct bpf_sock *full_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : 0;
}

static __always_inline struct request *request_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = full_socket(skb);

	return sk ? requests.sk_storage_get(sk, 0, 0) : 0;
}

static __always_inline int request_tail(struct __sk_buff *skb, int step, int tail)
{
	skb->cb[REQUEST_STEP] = step;
	tail_egress.call(skb, tail);
	return 0; /* more than a packet may ask for: TCP sends it again, and it is read on */
}

static __always_inline int request_fails(struct __sk_buff *skb, struct request *r, __u8 reason)
{
	r->fault = reason;
	return request_tail(skb, STEP_FAULT, TAIL_REQUESTED);
}

static __always_inline void head_begins(struct request *r)
{
	r->number[NUMBER_LENGTH] = r->number[NUMBER_CHUNK] = 0;
	r->number[NUMBER_AUTHORITY_PORT] = r->number[NUMBER_HOST_PORT] = 0;
	__builtin_memset(r->used, 0, sizeof(r->used));
	__builtin_memset(r->count, 0, sizeof(r->count));
	r->room[TEXT_METHOD] = METHOD_BYTES - 1;
	r->room[TEXT_AUTHORITY] = r->room[TEXT_HOST] = HOST_BYTES;
	r->room[TEXT_PATH] = PATH_BYTES;
	r->start = r->next;
	r->in_head = 1;
	r->cleared = r->whole = 0;
}

/* The place in the stream of a packet's first byte, whatever was sent before, also unseen: sequence numbers come again
 * after 4 GB. 0: nobody can tell.
 */
static __always_inline __u64 place_in_stream(struct bpf_sock *sk, __u32 sequence)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	return tcp ? tcp->bytes_acked + (__s64)(__s32)(sequence - tcp->snd_una) : 0;
}

/* A packet that has nothing to be read: without data, or within a body or a tunnel. */
static __always_inline int request_passes(struct __sk_buff *skb, const struct bpf_sock *sk,
					  const struct endpoint *endpoint)
{
	struct flow_key key = { .cgroup_id = bpf_skb_cgroup_id(skb) };

	if (!endpoint || endpoint->state != STATE_MANAGED)
		return request_tail(skb, STEP_PASS, TAIL_REQUESTED);
	key_of_stream(sk, &key);
	return count_greeted(skb, &key, endpoint);
}

/* Every packet that an HTTP flow sends. */
int request_egress(struct __sk_buff *skb)
{
	enum { SEQUENCE = 4, FLAGS = 13, URGENT = 0x20, HANDSHAKE = 22 };
	struct bpf_sock *sk = full_socket(skb);
	struct config *config = configuration();
	__u32 ports = 0, data = stream_at(skb, &ports);
	struct judged judged = {};
	__be32 word = 0;
	__u8 byte = 0;

	struct promoted *s = sk ? sockets.sk_storage_get(sk, 0, 0) : 0;
	struct request *r = s ? requests.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (!r || !config)
		return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
	endpoint_and_epoch(skb, config, bpf_skb_cgroup_id(skb), &judged);
	if (data && skb->len <= data)
		return request_passes(skb, sk, judged.endpoint);
	if (sk->state == SOCKET_SYN_SENT)
		return 0; /* TCP sends it again without, and then the data */
	if (r->carries == CARRIES_TLS) {
		tail_egress.call(skb, TAIL_HELLO);
		return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
	}
	if (!data || bpf_skb_load_bytes(skb, ports + SEQUENCE, &word, sizeof(word)) ||
	    bpf_skb_load_bytes(skb, data, &byte, 1))
		return request_fails(skb, r, DROP_BROKEN_REQUEST);
	__u32 sequence = bpf_ntohl(word);
	__u64 place = place_in_stream(sk, sequence);

	if (r->carries == CARRIES_NOTHING) {
		r->left = 0;
		r->next = place;
		r->epoch = r->made = r->bits = 0;
		head_begins(r);
		r->fault = r->state = r->in_head = 0;
		if (place > 1) { /* the SYN counts as a byte; data in a SYN have none */
			r->carries = CARRIES_REQUESTS;
			return request_fails(skb, r, DROP_REQUEST_UNSEEN);
		}
		r->carries = byte == HANDSHAKE ? CARRIES_TLS : CARRIES_REQUESTS;
		if (r->carries == CARRIES_TLS) {
			tail_egress.call(skb, TAIL_HELLO);
			return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
		}
	}
	if (r->fault)
		return request_fails(skb, r, r->fault);
	if (r->made && !r->in_head && r->epoch != judged.epoch)
		return request_tail(skb, STEP_AGAIN, TAIL_REQUEST_MATCH);
	if (r->carries == CARRIES_TUNNEL) {
		s->greeted = judged.epoch;
		return request_passes(skb, sk, judged.endpoint);
	}
	__s64 known = r->next - place;

	if (known < 0)
		return request_fails(skb, r, DROP_REQUEST_UNSEEN);
	if (known < (__s64)(skb->len - data)) {
		if (r->carries == CARRIES_CONNECT)
			return request_fails(skb, r, DROP_TUNNEL_EARLY);
		if (bpf_skb_load_bytes(skb, ports + FLAGS, &byte, 1) || byte & URGENT)
			return request_fails(skb, r, DROP_BROKEN_REQUEST); /* the server may read the stream without it */
	}
	__s64 fresh = (__s64)(skb->len - data) - known;
	__s64 held = r->in_head && !r->cleared ? r->next - r->start : 0; /* of a head that has not left yet */

	if (fresh + held <= 0)
		return request_passes(skb, sk, judged.endpoint); /* all of it has left before */
	if (fresh <= (__s64)r->left && !r->in_head && fresh > 0) {
		r->left -= fresh;
		r->next += fresh;
		return request_passes(skb, sk, judged.endpoint);
	}
	skb->cb[REQUEST_AT] = data + known;
	skb->cb[REQUEST_SEQUENCE] = sequence;
	skb->cb[REQUEST_DATA] = data;
	if (r->whole)
		return request_tail(skb, STEP_WHOLE, TAIL_REQUEST_MATCH);
	return request_tail(skb, STEP_PASS, TAIL_REQUEST_READ);
}

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
		const struct step *step = &table->steps[at];

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
	r->key.ruleset = judged.endpoint->ruleset;
	__u32 bits = bits_of_method(r);

	if (bits)
		bits = bits_of_path(r, bits);
	if (bits)
		bits &= bits_of_port(r);
	if (bits)
		bits &= bits_of_host(r);
	int again = bits && bits == r->bits && r->made && judged.epoch && r->epoch == judged.epoch;

	r->bits = bits;
	if (!again || skb->cb[REQUEST_STEP] != STEP_WHOLE)
		return request_tail(skb, skb->cb[REQUEST_STEP], TAIL_REQUESTED);
	head_ends(r, judged.epoch);
	return request_tail(skb, STEP_PASS, skb->cb[REQUEST_AT] < skb->len ? TAIL_REQUEST_READ : TAIL_REQUESTED);
}

/* What people read. */
static __always_inline void request_report(const struct config *config, struct event *event, const struct rule *rule,
					   struct request *r)
{
	struct request_event *out;

	if (!may_report(config, event->slot))
		return;
	out = events.ringbuf_reserve(sizeof(struct request_event));

	if (!out) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	event->kind = rule->verdict == VERDICT_DENY ? EVENT_DENIED : EVENT_AUDITED;
	event->verdict = rule->verdict;
	event->reason = rule->reason;
	event->rule = rule->rule;
	event->time_ns = bpf_ktime_get_ns();
	out->event = *event;
	__u32 text = r->count[COUNTED_TUNNEL] || r->count[COUNTED_ABSOLUTE] ? TEXT_AUTHORITY : TEXT_HOST;
	__u32 method = r->used[TEXT_METHOD], host = r->used[text], path = r->used[TEXT_PATH];

	__builtin_memcpy(out->method, r->text, sizeof(out->method));
	if (text == TEXT_HOST)
		__builtin_memcpy(out->host, r->text + TEXT_HOST * TEXT_ROOM, sizeof(out->host));
	else
		__builtin_memcpy(out->host, r->text + TEXT_AUTHORITY * TEXT_ROOM, sizeof(out->host));
	__builtin_memcpy(out->path, r->text + TEXT_PATH * TEXT_ROOM, sizeof(out->path));
	method = method < METHOD_BYTES ? method : METHOD_BYTES - 1;
	host = host < TEXT_ROOM ? host : TEXT_ROOM - 1;
	path = path < TEXT_ROOM ? path : TEXT_ROOM - 1;
	asm volatile("" : "+r"(method), "+r"(host), "+r"(path));
	out->method[method & (METHOD_BYTES - 1)] = 0;
	out->host[host & (TEXT_ROOM - 1)] = 0;
	out->path[path & (TEXT_ROOM - 1)] = 0;
	out->port = r->number[NUMBER_AUTHORITY_PORT];
	__builtin_memset(out->pad, 0, sizeof(out->pad));
	events.ringbuf_submit(out, 0);
}

/* Judges the flow anew, with a request. */
int requested_egress(struct __sk_buff *skb)
{
	struct config *config = configuration();
	struct flow_key key = { .cgroup_id = bpf_skb_cgroup_id(skb) };
	struct judged judged = {};
	struct rule rule = {};
	struct event event = {};
	__u32 step = skb->cb[REQUEST_STEP];
	struct bpf_sock *sk = full_socket(skb);
	struct request *r = sk ? requests.sk_storage_get(sk, 0, 0) : 0;
	struct promoted *s = sk ? sockets.sk_storage_get(sk, 0, 0) : 0;

	if (!config || !r || !s)
		return 0;
	endpoint_and_epoch(skb, config, key.cgroup_id, &judged);
	struct endpoint *endpoint = judged.endpoint;

	if (!endpoint || endpoint->state == STATE_PENDING)
		return 0; /* it comes again */
	if (endpoint->state == STATE_UNMANAGED)
		return 1;
	key_of_stream(sk, &key);
	if (step == STEP_PASS)
		return count_greeted(skb, &key, endpoint);
	struct hello *hello = &r->hello;

	r->best = (struct rule){};
	*hello = (struct hello){};
	if (step == STEP_WHOLE || step == STEP_CLEAR || step == STEP_AGAIN)
		hello->requests = r->bits;
	judge_by_names(endpoint, &key, hello, &r->best, &rule);
	int has_failed = hello->failed >> rule.verdict & 1;

	if (has_failed && step == STEP_PART && rule.verdict == VERDICT_DENY)
		return 0; /* the rest of the head is to come */
	event_of_stream(skb, sk, endpoint, &key, &event);
	if (has_failed) {
		if (step == STEP_PART)
			r->fault = DROP_REQUEST_TOO_LONG; /* a policy in audit waits for nothing */
		rule.reason = !(hello->failed & ASKED_REQUESTS) ? DROP_NO_TLS : r->fault ? r->fault : DROP_REQUEST;
		rule.rule = hello->rule;
	}
	if (rule.verdict == VERDICT_DENY || has_failed) {
		count_refusal(&event, &rule, segments(skb));
		request_report(config, &event, &rule, r);
	}
	if (rule.verdict == VERDICT_DENY) {
		r->fault = rule.reason;
		return 0;
	}
	if (has_failed) {
		s->greeted = judged.epoch; /* one report a connection and epoch: what comes later is not read */
		return count_greeted(skb, &key, endpoint);
	}
	if (step == STEP_AGAIN) {
		r->epoch = judged.epoch;
		tail_egress.call(skb, TAIL_REQUEST);
		return 0;
	}
	if (step == STEP_CLEAR) {
		r->cleared = 1;
	} else if (step == STEP_WHOLE) {
		head_ends(r, judged.epoch);
		if (skb->cb[REQUEST_AT] < skb->len && r->carries == CARRIES_CONNECT)
			return request_fails(skb, r, DROP_TUNNEL_EARLY);
		if (skb->cb[REQUEST_AT] < skb->len)
			return request_tail(skb, STEP_PASS, TAIL_REQUEST_READ);
	}
	return count_greeted(skb, &key, endpoint);
}
