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
 * there, or what asks for TLS before it; and where its server name is (struct cursor).
 */
enum hello_word { WORD_STATE = 0, WORD_BYTES = 1, WORD_AT = 2, WORD_LEFT = 3, WORD_RECORDS = 4 };
enum hello_reading { READ_BEFORE = 0, READ_NOW = 1, READ_IN_PART = 2, READ_START_TLS = 3 };

enum hello_limit {
	MOST_BYTES = 16384,
	MOST_RECORDS = 16,
	STEPS = 32,
	MOST_RUNS = 4,
	MOST_NAME = SERVER_BYTES - 2, /* whose key has two zeros more */
	RULESET_BITS = 32,
	START_BYTES = 8, /* of PostgreSQL's SSLRequest */
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

/* The request by which a socket has become a tunnel; null: it is none. */
static __always_inline struct request *tunnel_of(struct bpf_sock *sk)
{
	struct request *r = requests.sk_storage_get(sk, 0, 0);

	return r && r->carries == CARRIES_TUNNEL ? r : 0;
}

/* Is this PostgreSQL's SSLRequest, and nothing else (Message Formats, SSLRequest)? */
static __always_inline int asks_for_tls(struct __sk_buff *skb, __u32 data)
{
	enum { SSL_REQUEST = 80877103 };
	__be32 word[2] = {};

	return skb->len - data == START_BYTES && !bpf_skb_load_bytes(skb, data, word, sizeof(word)) &&
	       word[0] == bpf_htonl(START_BYTES) && word[1] == bpf_htonl(SSL_REQUEST);
}

/* May a connection's hello begin with this packet? Then it is the first of the stream or of a tunnel, or what comes behind
 * an SSLRequest that the server has got.
 */
static __always_inline int begins_with(struct __sk_buff *skb, struct bpf_sock *sk, __u32 ports, __u32 data,
				       struct greeting *g)
{
	enum { SEQUENCE = 4, FLAGS = 13, URGENT = 0x20, SYN = 1 }; /* which counts as a byte */
	struct request *tunnel = tunnel_of(sk);
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	struct reader *r = reader_of(g);
	__be32 sequence = 0;
	__u8 flags = 0;

	g->fault = DROP_NONE;
	g->encrypted = 0;
	g->key.length = RULESET_BITS;
	if (!tcp || bpf_skb_load_bytes(skb, ports + SEQUENCE, &sequence, sizeof(sequence)) ||
	    bpf_ntohl(sequence) != tcp->snd_una ||
	    (tunnel ? tcp->bytes_acked != tunnel->next : tcp->bytes_acked > SYN + (g->start_tls ? START_BYTES : 0))) {
		g->fault = DROP_HELLO_UNSEEN;
		return 0;
	}
	if (bpf_skb_load_bytes(skb, ports + FLAGS, &flags, sizeof(flags)) || flags & URGENT) {
		g->fault = DROP_BROKEN_HELLO; /* a byte of it that the server does not read with the others */
		return 0;
	}
	if (tcp->bytes_acked <= SYN || tunnel)
		g->start_tls = !tunnel && asks_for_tls(skb, data);
	skb->cb[WORD_STATE] = tcp->bytes_acked <= SYN && g->start_tls ? READ_START_TLS : READ_NOW;
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
	struct bpf_sock *sk = full_socket(skb);
	__u32 ports = 0, data = stream_at(skb, &ports);

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
			if (skb->cb[WORD_STATE] == READ_NOW)
				tail_egress.call(skb, TAIL_HELLO_FIELDS);
		}
	}
	tail_egress.call(skb, TAIL_GREETED);
	return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
}
