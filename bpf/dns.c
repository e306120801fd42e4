// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* What endpoints ask of DNS servers and are answered (RFC 1035): addresses are learned for the name that was asked for,
 * before the application has the answer, and answers are reported as they came.
 *
 * Tail-called for what goes to and comes from port 53 and passes. Returns 1 always: it changes no verdict.
 *
 * Only answers to a question count that this socket has asked (server, id and name), in the pod's own network namespace,
 * of a server of entity dns, by the device that the question left by, which is not lo. Every address of an answer belongs
 * to the question's name, whatever names lie between (CNAME).
 */

enum dns_message { DNS_FLAGS = 2, DNS_CODE = 3, DNS_QUESTIONS = 4, DNS_ANSWERS = 6, DNS_HEADER = 12 };

/* Of one processor, while it reads an answer. `nonce`: of the packet; another one has taken it meanwhile. */
struct dns_scratch {
	__u32 nonce;
	__u32 offset;  /* of the next record */
	__u32 records; /* that are left */
	__u32 identity;
	__u32 labels; /* of the name */
	__u32 bytes;
	struct learned entry;
	__u8 name[NAME_BYTES + 8]; /* as it came; what is read with its last byte lies in it too */
};
BPF_PERCPU_ARRAY(dns_scratch, struct dns_scratch, 1);

static __always_inline struct dns_scratch *scratch(void)
{
	int zero = 0;

	return dns_scratch.lookup(&zero);
}

/* Does a connection's stream begin with this segment? Only there a message begins for sure: what stands at the start of a
 * later segment may be any part of an answer, and its text be whatever the owner of some name likes.
 */
static __always_inline int begins_stream(struct __sk_buff *skb, __u32 ports)
{
	enum { SEQUENCE = 4 };
	struct bpf_sock *sk = full_socket(skb);
	__be32 sequence = 0;

	struct bpf_tcp_sock *tcp = sk ? bpf_tcp_sock(sk) : 0;

	if (!tcp || bpf_skb_load_bytes(skb, ports + SEQUENCE, &sequence, sizeof(sequence)))
		return 0;
	return tcp->bytes_received == 0 && tcp->rcv_nxt == bpf_ntohl(sequence);
}

/* Where the message is, behind the ports at `ports`. Over TCP its length is in front of it (RFC 7766 section 8): of what a
 * server answers the first message is read, as far as its first segment goes. 0: there is none.
 */
static __always_inline __u32 message_at(struct __sk_buff *skb, __u32 ports, __u8 protocol, int way)
{
	enum { UDP_HEADER = 8, DATA_OFFSET = 12, LENGTH = 2 };
	__u8 words;

	if (!ports)
		return 0;
	if (protocol == PROTOCOL_UDP)
		return ports + UDP_HEADER;
	if (bpf_skb_load_bytes(skb, ports + DATA_OFFSET, &words, 1) ||
	    (way == DIRECTION_INGRESS && !begins_stream(skb, ports)))
		return 0;
	return ports + (words >> 4) * 4 + LENGTH;
}

static __always_inline void address_at_end(struct __sk_buff *skb, int way, struct address *server)
{
	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		enum { SOURCE = 12, DESTINATION = 16 };
		__be32 address = 0;

		bpf_skb_load_bytes(skb, way == DIRECTION_INGRESS ? SOURCE : DESTINATION, &address, sizeof(address));
		address_from_ipv4(server, address);
	} else {
		bpf_skb_load_bytes(skb,
				   way == DIRECTION_INGRESS ? __builtin_offsetof(struct ipv6hdr, saddr)
							    : __builtin_offsetof(struct ipv6hdr, daddr),
				   server, sizeof(*server));
	}
}

/* A message with one question (section 4.1.1): anything else to or from this port is no business of ours. */
static __always_inline int read_header(struct __sk_buff *skb, __u32 offset, int is_answer, __u8 *header)
{
	enum { IS_ANSWER = 0x80 };

	if (bpf_skb_load_bytes(skb, offset, header, DNS_HEADER))
		return 0;
	return !(header[DNS_FLAGS] & IS_ANSWER) == !is_answer && header[DNS_QUESTIONS] == 0 &&
	       header[DNS_QUESTIONS + 1] == 1;
}

/* Reads up to `most` bytes, a power of two, as far as the packet goes. How many, or 0. */
static __always_inline __u32 read_some(struct __sk_buff *skb, __u32 offset, void *out, __u32 most)
{
	__u32 left = skb->len - offset;

	if ((__s32)left <= 0)
		return 0;
	if (left > most)
		left = most;
	asm volatile("" : "+r"(left)); /* the verifier of 5.10 wants the mask below, which LLVM would leave out */
	left = ((left - 1) & (most - 1)) + 1;
	return bpf_skb_load_bytes(skb, offset, out, left) ? 0 : left;
}

/* Is the packet's socket in its pod's own network namespace? A task may make others, in each of which it may be the DNS
 * server: they belong to a user namespace of its own, and the pod's does not. Where the kernel does not tell, nothing is
 * learned.
 */
static __always_inline int is_in_own_network(struct __sk_buff *skb)
{
#ifdef HAVE_NETNS_OWNER
	enum { HELPER_PROBE_READ_KERNEL = 113 }; /* by number: bcc takes another one where it may not read kallsyms */
	long (*read_kernel)(void *, __u32, const void *) =
		(long (*)(void *, __u32, const void *))HELPER_PROBE_READ_KERNEL;
	struct bpf_sock *sk = skb->sk;
	__u8 start[SOCK_NET_OFFSET + 8];
	__u64 network = 0, owner = 0;
	__u32 level = ~0;

	if (!sk || read_kernel(start, sizeof(start), sk))
		return 0;
	__builtin_memcpy(&network, start + SOCK_NET_OFFSET, sizeof(network));
	if (read_kernel(&owner, sizeof(owner), (void *)(network + NET_USER_NS_OFFSET)) ||
	    read_kernel(&level, sizeof(level), (void *)(owner + USER_NS_LEVEL_OFFSET)))
		return 0;
	return level == 0;
#else
	return 0;
#endif
}

/* Of a question: its server, id, device and name, up to the name's first byte that is zero. An answer comes by the device
 * that the question has left by: a task may have put another one into the pod's network namespace.
 */
static __always_inline __u64 seal_of_question(struct __sk_buff *skb, __u32 offset, const __u8 *header,
					      const struct address *server)
{
	__u64 seal = seal_of_address((__u64)skb->ifindex << 16 | header[0] << 8 | header[1], server);

	offset += DNS_HEADER;
#pragma clang loop unroll(disable)
	for (int i = 0; i < NAME_BYTES / 8; i++) {
		__u64 word = 0;

		if (!read_some(skb, offset + i * 8, &word, 8))
			break;
		__u64 zeros = zero_bytes(word);
		__u64 first = zeros & -zeros;

		if (first)
			word &= (first << 1) - 1;
		seal = mixed(seal, lower_case(word));
		if (first)
			break;
	}
	return seal | 1;
}

static __always_inline struct questions *questions_of(struct __sk_buff *skb, int flags)
{
	struct bpf_sock *sk = full_socket(skb);

	return sk ? questions.sk_storage_get(sk, 0, flags) : 0;
}

static __always_inline void remember_question(struct __sk_buff *skb, __u64 seal)
{
	struct questions *asked = questions_of(skb, BPF_SK_STORAGE_GET_F_CREATE);

	if (!asked)
		return;
	__u64 at = asked->next & (QUESTIONS - 1);

#pragma clang loop unroll(disable)
	for (int i = 0; i < QUESTIONS; i++) { /* one that was answered, else the oldest */
		__u64 is_free = is_zero(asked->seal[i]);

		asm volatile("" : "+r"(is_free)); /* as in is_zero */
		at ^= (at ^ i) & -is_free;
	}
	at &= QUESTIONS - 1;
	asked->seal[at] = seal;
	asked->next = at + 1;
}

/* Has this socket asked it? It counts as answered then, however often it was asked. */
static __always_inline int take_question(struct __sk_buff *skb, __u64 seal)
{
	struct questions *asked = questions_of(skb, 0);
	__u64 found = 0;

	if (!asked)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < QUESTIONS; i++) {
		__u64 is_it = is_zero(asked->seal[i] ^ seal);

		asm volatile("" : "+r"(is_it)); /* as in is_zero */
		found |= is_it;
		asked->seal[i] &= is_it - 1;
	}
	return found;
}

/* Makes each label's length 0 in `s->name`. 0: it is no name. What it finds lies in `s`, so that the verifier takes all
 * ways out of the loop for one.
 */
static __always_inline int cut_labels(struct dns_scratch *s)
{
	enum { MOST_LABELS = 127, LABEL_BYTES = 63, MOST_BYTES = 254 };
	__u32 at = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i <= MOST_LABELS; i++) {
		__u32 index = at;

		asm volatile("" : "+r"(index));
		index &= NAME_BYTES - 1;
		__u8 length = s->name[index];

		if (!length) {
			s->labels = i;
			s->bytes = at;
			return 1;
		}
		if (length > LABEL_BYTES)
			return 0;
		s->name[index] = 0;
		at += length + 1;
		if (at > MOST_BYTES)
			return 0;
	}
	return 0;
}

/* The last so many bytes before `end` as one word, the last byte first. */
static __always_inline __u64 word_before(const struct dns_scratch *s, __u32 end)
{
	__u32 at = end - 8;

	asm volatile("" : "+r"(at));
	at &= NAME_BYTES - 1;
	return __builtin_bswap64(*(const __u64 *)&s->name[at]);
}

/* The key of `names`. 0: a label has a zero in it, by which it would be taken for two. */
static __always_inline int reverse_name(struct dns_scratch *s)
{
	__u64 digest = 0, zeros = 0, word;
	__u32 left = *(volatile __u32 *)&s->bytes;

#pragma clang loop unroll(disable)
	for (int i = 0; i < NAME_BYTES / 8; i++) {
		asm volatile("" : "+r"(left));
		if (left < 8)
			word = left ? __builtin_bswap64(*(__u64 *)s->name) >> (64 - 8 * (left & 7)) : 0;
		else
			word = word_before(s, left);
		word = lower_case(word);
		zeros += ((zero_bytes(word) >> 7) * 0x0101010101010101ull) >> 56;
		digest = mixed(digest, word);
		__builtin_memcpy(&s->entry.text.bytes[i * 8], &word, sizeof(word));
		if (left < 8)
			break;
		left -= 8;
	}
	s->entry.text.length = (*(volatile __u32 *)&s->bytes + 1) * 8;
	s->entry.digest = digest;
	return zeros - (8 - left) == *(volatile __u32 *)&s->labels;
}

/* The name that was asked for, if any policy here has a rule on it. */
static __always_inline int read_name(struct __sk_buff *skb, __u32 offset, struct dns_scratch *s)
{
	if (!read_some(skb, offset, s->name, NAME_BYTES) || !cut_labels(s) || !reverse_name(s))
		return 0;
	struct classes *classes = names.lookup(&s->entry.text);

	if (!classes || !classes->peer)
		return 0;
	s->offset = offset + s->bytes + 1 + 4; /* the name's end, type and class */
	return 1;
}

/* An address for the name, in the place of the same, of none, or of that which expires first. */
static __always_inline void learn_address(struct dns_scratch *s, __u32 ttl, const struct config *config)
{
	__u64 now = bpf_ktime_get_ns(), oldest = ~0ull;
	struct learned_key key = { .identity = s->identity }, place = { .identity = s->identity };
	__u32 first = first_learned(&s->entry.address);

	if (ttl < config->name_least_s)
		ttl = config->name_least_s;
	if (ttl > config->name_most_s)
		ttl = config->name_most_s;
	s->entry.expires = now + ttl * 1000000000ull;
#pragma clang loop unroll(disable)
	for (int i = 0; i < LEARNED_WAYS; i++) {
		key.index = first + i;
		struct learned *entry = learned.lookup(&key);
		__u64 expires = 0;

		if (entry) {
			expires = entry->expires;
			if (entry->digest == s->entry.digest && address_equal(&entry->address, &s->entry.address)) {
				if (expires < s->entry.expires)
					entry->expires = s->entry.expires;
				return;
			}
		}
		if (expires < oldest) {
			oldest = expires;
			place.index = key.index;
		}
	}
	if (oldest > now)
		count_loss(LOSS_LEARNED_SHARE, 1);
	s->entry.seal = seal_of_learned(&place, &s->entry.address);
	if (learned.update(&place, &s->entry))
		count_loss(LOSS_LEARNED_FULL, 1);
}

/* One record, or one label of a record's name (section 4.1.3). 0: the message ends, or is none. */
static __always_inline int read_record(struct __sk_buff *skb, struct dns_scratch *s, const struct config *config)
{
	enum { POINTER = 0xc0, TYPE_A = 1, TYPE_AAAA = 28, CLASS_IN = 1, AFTER_NAME = 10 };
	__u8 start[2 + AFTER_NAME];
	__u32 at = s->offset;

	if (!s->records || bpf_skb_load_bytes(skb, at, start, 1))
		return 0;
	if (start[0] && start[0] < 64) {
		s->offset = at + start[0] + 1;
		return 1;
	}
	if (start[0] && start[0] < POINTER)
		return 0;
	at += start[0] ? 2 : 1;
	if (bpf_skb_load_bytes(skb, at, start, AFTER_NAME))
		return 0;
	__u32 type = start[0] << 8 | start[1], length = start[8] << 8 | start[9];
	__u32 ttl = (__u32)start[4] << 24 | start[5] << 16 | start[6] << 8 | start[7];

	at += AFTER_NAME;
	s->offset = at + length;
	s->records--;
	if ((start[2] << 8 | start[3]) != CLASS_IN)
		return 1;
	if (type == TYPE_A && length == 4) {
		__be32 address;

		if (bpf_skb_load_bytes(skb, at, &address, sizeof(address)))
			return 0;
		address_from_ipv4(&s->entry.address, address);
	} else if (type == TYPE_AAAA && length == sizeof(struct address)) {
		if (bpf_skb_load_bytes(skb, at, &s->entry.address, sizeof(struct address)))
			return 0;
	} else {
		return 1;
	}
	learn_address(s, ttl, config);
	return 1;
}

/* Goes through the records of an answer, some at a time; the report comes last. */
int dns_learn(struct __sk_buff *skb)
{
	enum { STEPS = 64 };
	struct dns_scratch *s = scratch();
	struct config *config = configuration();

	int more = s && config;

#pragma clang loop unroll(disable)
	for (int i = 0; i < STEPS && more; i++)
		more = s->nonce == skb->cb[0] && read_record(skb, s, config);
	if (more)
		tail_ingress.call(skb, TAIL_LEARN);
	tail_ingress.call(skb, TAIL_REPORT);
	return 1;
}

/* May an answer be learned from? The questions of its socket know, and its server and the way that it came. */
static __always_inline void learn_answer(struct __sk_buff *skb, const struct endpoint *endpoint, __u32 offset,
					 const __u8 *header)
{
	enum { CODE = 15 };
	struct dns_scratch *s = scratch();
	struct address server = {};
	struct classes classes;
	union any_key key;

	if (!s || skb->ifindex == LOOPBACK_DEVICE || header[DNS_CODE] & CODE)
		return;
	address_at_end(skb, DIRECTION_INGRESS, &server);
	classify(&server, &key, &classes);
	if (!(classes.flags & ADDRESS_OF_DNS))
		return;
	if (!take_question(skb, seal_of_question(skb, offset, header, &server))) {
		count_loss(LOSS_UNASKED_ANSWER, 1);
		return;
	}
	s->nonce = bpf_get_prandom_u32();
	s->identity = endpoint->identity;
	s->records = header[DNS_ANSWERS] << 8 | header[DNS_ANSWERS + 1];
	if (!s->records || !read_name(skb, offset + DNS_HEADER, s))
		return;
	skb->cb[0] = s->nonce;
	tail_ingress.call(skb, TAIL_LEARN);
}

static __always_inline void describe_answer(struct __sk_buff *skb, const struct endpoint *endpoint, __u64 cgroup_id,
					    __u32 ports, __u8 protocol, struct event *out)
{
	enum { DESTINATION_PORT = 2 };

	out->time_ns = bpf_ktime_get_ns();
	out->cgroup_id = cgroup_id;
	out->socket_cookie = bpf_get_socket_cookie(skb);
	address_at_end(skb, DIRECTION_INGRESS, &out->peer);
	bpf_skb_load_bytes(skb, ports, &out->service_port, sizeof(out->service_port));
	bpf_skb_load_bytes(skb, ports + DESTINATION_PORT, &out->client_port, sizeof(out->client_port));
	out->protocol = protocol;
	out->direction = DIRECTION_EGRESS;
	out->verdict = VERDICT_ALLOW;
	out->identity = endpoint->identity;
	out->slot = endpoint->slot;
	out->length = skb->len;
	out->kind = EVENT_DNS_ANSWER;
	out->hook = HOOK_INGRESS;
}

static __always_inline void report_answer(struct __sk_buff *skb, const struct endpoint *endpoint, __u32 ports,
					  __u8 protocol, __u32 offset)
{
	struct dns_answer *answer = events.ringbuf_reserve(sizeof(struct dns_answer));

	if (!answer) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	__builtin_memset(answer, 0, __builtin_offsetof(struct dns_answer, message));
	describe_answer(skb, endpoint, bpf_skb_cgroup_id(skb), ports, protocol, &answer->event);
	__u32 kept = read_some(skb, offset, answer->message, DNS_BYTES);

	if (!kept) {
		events.ringbuf_discard(answer, 0);
		return;
	}
	answer->kept = kept;
	events.ringbuf_submit(answer, 0);
}

static __always_inline struct endpoint *managed_endpoint(struct __sk_buff *skb)
{
	struct config *config = configuration();
	struct endpoint *endpoint = config ? endpoint_of_skb(skb, config, bpf_skb_cgroup_id(skb)) : 0;

	return endpoint && endpoint->state == STATE_MANAGED ? endpoint : 0;
}

/* Identities that found no number of their own share one (slot 0): what one of them is answered is not another's. */
static __always_inline int is_learning(const struct endpoint *endpoint)
{
	return (endpoint->flags & ENDPOINT_NAMES) && (endpoint->identity & (IDENTITY_SLOTS - 1));
}

int dns_question(struct __sk_buff *skb)
{
	struct endpoint *endpoint = managed_endpoint(skb);
	__u8 protocol = 0, header[DNS_HEADER];
	__u32 offset = message_at(skb, ports_at(skb, &protocol), protocol, DIRECTION_EGRESS);
	struct address server = {};

	if (!endpoint || !is_learning(endpoint) || !offset || !is_in_own_network(skb) ||
	    !read_header(skb, offset, 0, header))
		return 1;
	address_at_end(skb, DIRECTION_EGRESS, &server);
	remember_question(skb, seal_of_question(skb, offset, header, &server));
	return 1;
}

int dns_answer(struct __sk_buff *skb)
{
	struct endpoint *endpoint = managed_endpoint(skb);
	__u8 protocol = 0, header[DNS_HEADER];
	__u32 offset = message_at(skb, ports_at(skb, &protocol), protocol, DIRECTION_INGRESS);

	if (!endpoint || !offset || !read_header(skb, offset, 1, header))
		return 1;
	if (is_learning(endpoint))
		learn_answer(skb, endpoint, offset, header);
	tail_ingress.call(skb, TAIL_REPORT);
	return 1;
}

int dns_report(struct __sk_buff *skb)
{
	struct config *config = configuration();
	struct endpoint *endpoint = managed_endpoint(skb);
	__u8 protocol = 0;
	__u32 ports = ports_at(skb, &protocol), offset = message_at(skb, ports, protocol, DIRECTION_INGRESS);

	if (!config || !endpoint || !offset)
		return 1;
	int index = endpoint->slot;
	struct bucket *bucket = dns_rates.lookup(&index);

	if (bucket && take_token(&bucket->tokens, &bucket->refilled, config, DNS_RATE, DNS_BURST, bpf_jiffies64()))
		report_answer(skb, endpoint, ports, protocol, offset);
	else
		count_loss(LOSS_ANSWER_RATE, 1);
	return 1;
}
