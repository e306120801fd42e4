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

/* What begins with TLS, the connection or its tunnel, is judged by its hello. */
static __always_inline int request_to_hello(struct __sk_buff *skb)
{
	tail_egress.call(skb, TAIL_HELLO);
	return tail_missing(skb, bpf_skb_cgroup_id(skb), DIRECTION_EGRESS);
}

/* Every packet that an HTTP flow sends. */
int request_egress(struct __sk_buff *skb)
{
	enum { SEQUENCE = 4, FLAGS = 13, URGENT = 0x20, HANDSHAKE = 22, SSL_REQUEST = 0 };
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
	if (r->carries == CARRIES_TLS)
		return request_to_hello(skb);
	if (!data || bpf_skb_load_bytes(skb, ports + SEQUENCE, &word, sizeof(word)) ||
	    bpf_skb_load_bytes(skb, data, &byte, 1))
		return request_fails(skb, r, DROP_BROKEN_REQUEST);
	__u32 sequence = bpf_ntohl(word);
	__u64 place = place_in_stream(sk, sequence);

	if (r->carries == CARRIES_NOTHING) {
		r->left = 0;
		r->next = place;
		r->epoch = r->made = r->bits = r->tried = r->common = 0;
		head_begins(r);
		r->fault = r->state = r->in_head = 0;
		if (place > 1) { /* the SYN counts as a byte; data in a SYN have none */
			r->carries = CARRIES_REQUESTS;
			return request_fails(skb, r, DROP_REQUEST_UNSEEN);
		}
		r->carries = byte == HANDSHAKE || byte == SSL_REQUEST ? CARRIES_TLS : CARRIES_REQUESTS;
		if (r->carries == CARRIES_TLS)
			return request_to_hello(skb);
	}
	if (r->fault)
		return request_fails(skb, r, r->fault);
	if (r->epoch != judged.epoch && (r->in_head ? r->cleared : r->made))
		return request_tail(skb, STEP_AGAIN, TAIL_REQUEST_MATCH);
	if (r->carries == CARRIES_TUNNEL)
		return request_to_hello(skb);
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
