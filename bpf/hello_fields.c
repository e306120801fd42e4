// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Reads the fields of a ClientHello, and the records that carry them, up to where its server name is. */

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
	struct bpf_sock *sk = full_socket(skb);

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
