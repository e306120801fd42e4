// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* What a TCP connection begins with, where only rules with `tls` allow it: a TLS ClientHello (RFC 8446 section 4.1.2)
 * and the server name in it (RFC 6066 section 3).
 *
 * Tail-called in egress for packets of such flows until their socket's hello has been judged in the current epoch. A
 * packet with data is dropped until one holds the whole hello: what TCP has not sent stays in its queue, and is sent
 * together with what is written later. So no byte leaves that was not judged, whatever path wrote it. A hello that TCP
 * splits although all of it is there would never come whole, and is denied.
 *
 * Returns 1: passes; 0: dropped. What is denied is ended by the agent, which the event tells.
 */

/* In the packet's control block, from one program to the next: whether a hello was read just now, or not all of it is
 * there; and where its server name is (struct cursor).
 */
enum hello_word { WORD_STATE = 0, WORD_BYTES = 1, WORD_AT = 2, WORD_LEFT = 3, WORD_RECORDS = 4 };
enum hello_reading { READ_BEFORE = 0, READ_NOW = 1, READ_IN_PART = 2 };

enum hello_limit {
	MOST_BYTES = 16384,
	MOST_RECORDS = 16,
	STEPS = 32,
	MOST_RUNS = 4,
	MOST_NAME = SERVER_BYTES - 2, /* whose key has two zeros more */
	RULESET_BITS = 32,
};

enum hello_state {
	HELLO_READ = 0,
	HELLO_INCOMPLETE = 1, /* the packet ends before */
	HELLO_NONE = 2,
	HELLO_BROKEN = 3,
	HELLO_GOES_ON = 4, /* in the next run */
	HELLO_LONG = 5,
};

/* Where in the packet handshake bytes are read, of which TLS records carry some each. */
struct cursor {
	__u32 at;
	__u32 left;    /* of the record */
	__u32 records; /* that may still come */
};

/* The field that is read next. A field of a hello says, but for a few bytes of its own, how much is to be skipped. */
enum field { MESSAGE, SESSION, CIPHERS, COMPRESSIONS, EXTENSIONS, EXTENSION, NAME_LIST, NAME };

/* How far a hello was read: where its name will stand in the socket's storage, so that nobody else writes to it (TCP
 * sends with the socket locked), and so that the verifier does not know, hence not follow, each of its values.
 */
struct reader {
	struct cursor cursor;
	struct cursor name; /* where the server name is */
	__u32 name_bytes;
	__u32 first;   /* in the packet, of its data */
	__u32 end;     /* of the packet */
	__u32 sequence; /* of its first byte */
	__u32 bytes;   /* in it */
	__u32 whole;   /* bytes of the hello in one record; 0: not known yet */
	__u32 runs;    /* of hello_fields, that may still come */
	__u32 pending; /* bytes to be skipped */
	__u32 rest;    /* of the hello */
	__u32 extension; /* bytes of the one that is read */
	__u8 field;
	__u8 has_name;
	__u8 encrypted;
	__u8 pad;
};
_Static_assert(sizeof(struct reader) <= SERVER_BYTES, "it is where the name will be");

static __always_inline struct reader *reader_of(struct greeting *g)
{
	return (struct reader *)g->key.bytes;
}

/* The head of the next record: handshake, of any version of TLS, with at least a byte. */
static __always_inline int next_record(struct __sk_buff *skb, struct cursor *c, __u32 end)
{
	enum { HEAD = 5, HANDSHAKE = 22, MAJOR = 3, MOST = 16384 };
	__u8 head[HEAD];

	if (!c->records)
		return HELLO_BROKEN;
	c->records--;
	if (c->at + 1 > end || bpf_skb_load_bytes(skb, c->at, head, 1))
		return HELLO_INCOMPLETE;
	if (head[0] != HANDSHAKE)
		return HELLO_NONE;
	if (c->at + HEAD > end || bpf_skb_load_bytes(skb, c->at, head, HEAD))
		return HELLO_INCOMPLETE;
	c->left = head[3] << 8 | head[4];
	c->at += HEAD;
	if (head[1] != MAJOR)
		return HELLO_NONE;
	return c->left && c->left <= MOST ? HELLO_READ : HELLO_BROKEN;
}

static __always_inline int take_byte(struct __sk_buff *skb, struct cursor *c, __u32 end, __u8 *out)
{
	if (!c->left) {
		int state = next_record(skb, c, end);

		if (state)
			return state;
	}
	if (c->at + 1 > end || bpf_skb_load_bytes(skb, c->at, out, 1))
		return HELLO_INCOMPLETE;
	c->at++;
	c->left--;
	return HELLO_READ;
}

/* A number of so many bytes, at most 4. */
static __always_inline int take_number(struct __sk_buff *skb, struct reader *r, __u32 bytes, __u32 *out)
{
	__u32 value = 0;
	__be32 word;

	if (r->cursor.left >= sizeof(word) && r->cursor.at + sizeof(word) <= r->end) {
		if (bpf_skb_load_bytes(skb, r->cursor.at, &word, sizeof(word)))
			return HELLO_INCOMPLETE;
		r->cursor.at += bytes;
		r->cursor.left -= bytes;
		*out = bpf_ntohl(word) >> (8 * (sizeof(word) - bytes) & 31);
		return HELLO_READ;
	}
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < sizeof(word); i++) {
		__u8 byte = 0;

		if (i >= bytes)
			break;
		int state = take_byte(skb, &r->cursor, r->end, &byte);

		if (state)
			return state;
		value = value << 8 | byte;
	}
	*out = value;
	return HELLO_READ;
}

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

/* A client's server_name: one, a host's. */
static __always_inline int read_name_head(struct reader *r, __u32 value)
{
	enum { HEAD = 5, HOST = 0 };

	if (value >> 16 != HOST || r->extension != (value & 0xffff) + HEAD)
		return HELLO_BROKEN;
	r->name = r->cursor;
	r->name_bytes = value & 0xffff;
	r->pending = r->name_bytes;
	r->field = EXTENSION;
	return HELLO_READ;
}

/* The head of an extension. Each comes once at most (RFC 8446 section 4.2), as far as they matter here. */
static __always_inline int read_extension(struct reader *r, __u32 value)
{
	enum { HEAD = 4, SERVER_NAME = 0, ENCRYPTED_CLIENT_HELLO = 0xfe0d };
	__u32 type = value >> 16, bytes = value & 0xffff;

	if (r->rest < HEAD + bytes)
		return HELLO_BROKEN;
	r->rest -= HEAD + bytes;
	if (type == ENCRYPTED_CLIENT_HELLO)
		r->encrypted = 1;
	if (type != SERVER_NAME) {
		r->pending = bytes;
		return HELLO_READ;
	}
	if (r->has_name)
		return HELLO_BROKEN;
	r->has_name = 1;
	r->extension = bytes;
	r->field = NAME_LIST;
	return HELLO_READ;
}

/* What a field of so many bytes says. What is left of the hello after its last list must be its extensions, all of it. */
static __always_inline int read_field(struct reader *r, __u32 width, __u32 value)
{
	enum { CLIENT_HELLO = 1, VERSION_AND_RANDOM = 34, LIST = 2 };

	switch (r->field) {
	case MESSAGE:
		if (value >> 24 != CLIENT_HELLO)
			return HELLO_NONE;
		value &= 0xffffff;
		if (value > MOST_BYTES)
			return HELLO_LONG;
		r->whole = r->cursor.at - r->first + value;
		r->pending = VERSION_AND_RANDOM;
		r->rest = value - VERSION_AND_RANDOM;
		r->field = SESSION;
		return HELLO_READ;
	case EXTENSIONS:
		r->rest -= width;
		r->field = EXTENSION;
		return r->rest == value ? HELLO_READ : HELLO_BROKEN;
	case EXTENSION:
		return read_extension(r, value);
	case NAME_LIST:
		r->field = NAME;
		return r->extension == value + LIST ? HELLO_READ : HELLO_BROKEN;
	case NAME:
		return read_name_head(r, value);
	}
	r->pending = value; /* of the three lists */
	r->rest -= width + value;
	r->field++;
	return HELLO_READ;
}

/* A hello's fields one by one, and the records that carry them. HELLO_READ: all of it. */
static __always_inline int take_fields(struct __sk_buff *skb, struct reader *r)
{
	const __u32 widths = 0x32421214; /* of the fields, from the right */
	struct cursor *c = &r->cursor;
	__u32 value = 0;
	int state;

#pragma clang loop unroll(disable)
	for (int i = 0; i < STEPS; i++) {
		if (r->pending > c->left) {
			r->pending -= c->left;
			c->at += c->left;
			c->left = 0;
			if (c->at > r->end)
				return HELLO_INCOMPLETE;
			state = next_record(skb, c, r->end);
			if (state)
				return state;
			continue;
		}
		c->at += r->pending;
		c->left -= r->pending;
		r->pending = 0;
		if (c->at > r->end)
			return HELLO_INCOMPLETE;
		if (!r->rest && (r->field == EXTENSION || r->field == EXTENSIONS))
			return HELLO_READ;
		__u32 width = widths >> (r->field * 4 & 31) & 7;

		state = take_number(skb, r, width, &value);
		if (state)
			return state;
		state = read_field(r, width, value);
		if (state)
			return state;
	}
	return HELLO_GOES_ON;
}

/* The number of the byte that the socket will be given next: all in front of it is in its queue. */
static __always_inline __u32 write_sequence(struct bpf_sock *sk, __u32 otherwise)
{
#ifdef HAVE_WRITE_SEQ
	enum { HELPER_SKC_TO_TCP_SOCK = 137 };
	struct tcp_sock {
		char before[WRITE_SEQ_OFFSET];
		__u32 write_seq;
	};
	struct tcp_sock *(*to_tcp)(void *) = (struct tcp_sock * (*)(void *)) HELPER_SKC_TO_TCP_SOCK;
	struct tcp_sock *tcp = to_tcp(sk);

	return tcp ? tcp->write_seq : otherwise;
#else
	return otherwise;
#endif
}

/* Is all of a hello in the socket's queue that is not in the packet? Then TCP has split it, and it will not come whole. */
static __always_inline int is_split(struct bpf_sock *sk, const struct reader *r)
{
	enum { HEADS = 9 }; /* of the first record, and of the message, which says how long it is */
	__u32 write_seq = write_sequence(sk, r->sequence + r->bytes);

	if (write_seq == r->sequence + r->bytes)
		return 0;
	return write_seq - r->sequence >= (r->whole ? r->whole : HEADS);
}

/* May a connection's hello begin with this packet? Then it is the first of the stream. */
static __always_inline int begins_with(struct __sk_buff *skb, struct bpf_sock *sk, __u32 ports, __u32 data,
				       struct greeting *g)
{
	enum { SEQUENCE = 4, FLAGS = 13, URGENT = 0x20 };
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	struct reader *r = reader_of(g);
	__be32 sequence = 0;
	__u8 flags = 0;

	g->fault = DROP_NONE;
	g->encrypted = 0;
	g->key.length = RULESET_BITS;
	if (!tcp || bpf_skb_load_bytes(skb, ports + SEQUENCE, &sequence, sizeof(sequence)) ||
	    bpf_ntohl(sequence) != tcp->snd_una || tcp->bytes_acked > 1) { /* the SYN counts as a byte */
		g->fault = DROP_HELLO_UNSEEN;
		return 0;
	}
	if (bpf_skb_load_bytes(skb, ports + FLAGS, &flags, sizeof(flags)) || flags & URGENT) {
		g->fault = DROP_BROKEN_HELLO; /* a byte of it that the server does not read with the others */
		return 0;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->cursor.at = r->first = data;
	r->cursor.records = MOST_RECORDS;
	r->end = skb->len;
	r->sequence = bpf_ntohl(sequence);
	r->bytes = skb->len - data;
	r->runs = MOST_RUNS;
	return 1;
}

/* Packets without data pass, and of a SYN with data nothing does: TCP sends it again without, and then the data. */
int hello_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u32 ports = 0, data = stream_at(skb, &ports);

	sk = sk ? bpf_sk_fullsock(sk) : 0;
	struct greeting *g = sk ? greetings.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (!g)
		return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
	skb->cb[WORD_STATE] = READ_BEFORE;
	if (!g->seen && !data) { /* extension headers: nobody knows where its data begin */
		g->fault = DROP_BROKEN_HELLO;
		g->seen = 1;
	} else if (!g->seen && skb->len > data) {
		if (sk->state == SOCKET_SYN_SENT)
			return 0;
		skb->cb[WORD_STATE] = READ_NOW;
		g->seen = 1;
		if (begins_with(skb, sk, ports, data, g)) {
			g->seen = 0;
			tail_egress.call(skb, TAIL_HELLO_FIELDS);
		}
	}
	tail_egress.call(skb, TAIL_GREETED);
	return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
}

/* What the fields came to, into `g`. 1: its name is still to be read. */
static __always_inline int end_reading(struct __sk_buff *skb, struct bpf_sock *sk, struct greeting *g, int state)
{
	struct reader *r = reader_of(g);

	if (state == HELLO_INCOMPLETE && !is_split(sk, r)) {
		skb->cb[WORD_STATE] = READ_IN_PART;
		return 0;
	}
	g->seen = 1;
	g->encrypted = r->encrypted;
	if (state == HELLO_INCOMPLETE || state == HELLO_LONG)
		g->fault = DROP_HELLO_TOO_LONG;
	else if (state == HELLO_NONE)
		g->fault = DROP_NO_TLS;
	else if (state != HELLO_READ)
		g->fault = DROP_BROKEN_HELLO;
	else if (r->has_name)
		g->fault = DROP_NO_SERVER_NAME; /* until it is read */
	return g->fault == DROP_NO_SERVER_NAME && r->name_bytes && r->name_bytes <= MOST_NAME;
}

/* The fields of a hello, so many at a time. */
int hello_fields(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : 0;
	struct greeting *g = sk ? greetings.sk_storage_get(sk, 0, 0) : 0;

	if (!g)
		return 0;
	struct reader *r = reader_of(g);
	int state = take_fields(skb, r);

	if (state == HELLO_GOES_ON && r->runs) {
		r->runs--;
		tail_egress.call(skb, TAIL_HELLO_FIELDS);
	} else if (end_reading(skb, sk, g, state)) {
		skb->cb[WORD_BYTES] = r->name_bytes;
		skb->cb[WORD_AT] = r->name.at;
		skb->cb[WORD_LEFT] = r->name.left;
		skb->cb[WORD_RECORDS] = r->name.records;
		tail_egress.call(skb, TAIL_HELLO_NAME);
	} else {
		tail_egress.call(skb, TAIL_GREETED);
	}
	return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
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
	struct bpf_sock *sk = skb->sk;
	__u8 name[256];

	sk = sk ? bpf_sk_fullsock(sk) : 0;
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

/* For which server a connection was begun, for whoever reads flows. */
static __always_inline void report_hello(const struct config *config, const struct event *event,
					 const struct greeting *g)
{
	int index = event->slot;
	struct bucket *bucket = dns_rates.lookup(&index);

	if (g->fault || g->key.length <= RULESET_BITS)
		return;
	if (!bucket || !take_token(&bucket->tokens, &bucket->refilled, config, DNS_RATE, DNS_BURST, bpf_jiffies64())) {
		count_loss(LOSS_EVENT_RATE, 1);
		return;
	}
	struct hello_event *out = events.ringbuf_reserve(sizeof(struct hello_event));

	if (!out) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	out->event = *event;
	out->event.kind = EVENT_HELLO;
	out->event.time_ns = bpf_ktime_get_ns();
	out->greeting = *g;
	events.ringbuf_submit(out, 0);
}

/* What `servers` makes of a hello. */
static __always_inline void bits_of(struct greeting *g, __u32 ruleset, struct hello *out)
{
	if (g->fault)
		return;
	g->key.ruleset = ruleset;
	struct servers *found = servers.lookup(&g->key);

	if (!found)
		return;
	out->bits = g->key.length > RULESET_BITS ? found->named : found->nameless;
	out->fits = g->encrypted ? out->bits & found->encrypted : out->bits;
}

/* Why a hello has failed. */
static __always_inline __u8 reason_of(const struct greeting *g, const struct hello *hello)
{
	if (!hello->asked)
		return DROP_NO_HTTP; /* its rules ask for that */
	if (g->fault)
		return g->fault;
	if (hello->bits & hello->asked)
		return DROP_ENCRYPTED_HELLO;
	return g->key.length > RULESET_BITS ? DROP_SERVER_NAME : DROP_NO_SERVER_NAME;
}

/* Of a packet of a connection that we opened, by its socket: where it goes to is no secret by now. */
static __always_inline void key_of_stream(const struct bpf_sock *sk, struct flow_key *out)
{
	enum { FAMILY_IPV4 = 2 };

	__be32 ipv4 = sk->dst_ip4;

	out->peer.word[0] = sk->dst_ip6[0];
	out->peer.word[1] = sk->dst_ip6[1];
	out->peer.word[2] = sk->dst_ip6[2];
	out->peer.word[3] = sk->dst_ip6[3];
	asm volatile("" : "+r"(ipv4) : : "memory"); /* or LLVM chooses a place in the socket, which the verifier refuses */
	if (sk->family == FAMILY_IPV4)
		address_from_ipv4(&out->peer, ipv4);
	out->service_port = sk->dst_port;
	out->protocol = PROTOCOL_TCP;
	out->direction = DIRECTION_EGRESS;
}

static __always_inline void event_of_stream(struct __sk_buff *skb, const struct bpf_sock *sk,
					    const struct endpoint *endpoint, const struct flow_key *key,
					    struct event *out)
{
	out->cgroup_id = key->cgroup_id;
	out->socket_cookie = bpf_get_socket_cookie(skb);
	out->peer = key->peer;
	out->service_port = key->service_port;
	out->client_port = bpf_htons(sk->src_port);
	out->protocol = PROTOCOL_TCP;
	out->direction = DIRECTION_EGRESS;
	out->hook = HOOK_EGRESS;
	out->identity = endpoint->identity;
	out->slot = endpoint->slot;
	out->length = skb->len;
}

/* Counted, and let go. */
static __always_inline int count_greeted(struct __sk_buff *skb, struct flow_key *key, const struct endpoint *endpoint)
{
	enum { DNS_PORT = 53 };
	struct flow *flow = flows.lookup(key);
	__u32 packets = segments(skb);

	count_identity(endpoint->identity, DIRECTION_EGRESS, DIRECTION_EGRESS, packets, skb->len);
	if (flow) {
		count_traffic(&flow->traffic[DIRECTION_EGRESS], packets, skb->len);
		flow->last = bpf_jiffies64();
	}
	if (key->service_port == bpf_htons(DNS_PORT))
		tail_egress.call(skb, TAIL_DNS);
	return 1;
}

/* Judges the flow anew, with the hello; once for each connection and epoch. */
int greeted_egress(struct __sk_buff *skb)
{
	struct config *config = configuration();
	struct flow_key key = { .cgroup_id = bpf_skb_cgroup_id(skb) };
	struct judged judged = {};
	struct hello hello = {};
	struct rule best = {};
	struct rule rule = {};
	struct event event = {};
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : 0;
	struct greeting *g = sk ? greetings.sk_storage_get(sk, 0, 0) : 0;
	struct promoted *s = sk ? sockets.sk_storage_get(sk, 0, 0) : 0;

	if (!config || !g || !s)
		return 0;
	endpoint_and_epoch(skb, config, key.cgroup_id, &judged);
	struct endpoint *endpoint = judged.endpoint;

	if (!endpoint || endpoint->state == STATE_PENDING)
		return 0; /* it comes again */
	if (endpoint->state == STATE_UNMANAGED)
		return 1;
	key_of_stream(sk, &key);
	if (!g->seen && skb->cb[WORD_STATE] != READ_IN_PART)
		return count_greeted(skb, &key, endpoint); /* no data yet */
	if (g->seen)
		bits_of(g, endpoint->ruleset, &hello);
	judge_by_names(endpoint, &key, &hello, &best, &rule);
	int has_failed = hello.failed >> rule.verdict & 1;

	event_of_stream(skb, sk, endpoint, &key, &event);
	if (skb->cb[WORD_STATE] == READ_NOW)
		report_hello(config, &event, g);
	if (has_failed) {
		if (!g->seen && !g->fault && rule.verdict == VERDICT_DENY)
			return 0; /* the rest of the hello is to come */
		if (!g->seen && !g->fault)
			g->fault = DROP_HELLO_TOO_LONG; /* a policy in audit waits for nothing */
		rule.reason = reason_of(g, &hello);
		rule.rule = hello.rule;
	}
	if (rule.verdict == VERDICT_DENY || has_failed)
		record_refusal(config, &event, &rule, segments(skb));
	if (rule.verdict == VERDICT_DENY)
		return 0;
	if (!g->seen && !g->fault)
		g->fault = DROP_HELLO_UNSEEN; /* no rule has waited for the rest, but one to come may ask for it */
	g->seen = 1;
	s->greeted = judged.epoch;
	return count_greeted(skb, &key, endpoint);
}
