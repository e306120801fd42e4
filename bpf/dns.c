// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Answers of DNS servers, reported as they came: the agent learns which name an endpoint asked for.
 *
 * Tail-called for a datagram from port 53 that passes. Returns 1 always: it changes no verdict.
 */

/* Where the UDP header is; 0: not where it is without extension headers, and then nothing is reported. */
static __always_inline __u32 udp_offset(struct __sk_buff *skb)
{
	__u8 first, protocol;

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		if (bpf_skb_load_bytes(skb, 0, &first, 1))
			return 0;
		return (first & 15) * 4;
	}
	if (bpf_skb_load_bytes(skb, __builtin_offsetof(struct ipv6hdr, nexthdr), &protocol, 1))
		return 0;
	return protocol == PROTOCOL_UDP ? sizeof(struct ipv6hdr) : 0;
}

/* An answer to one question (RFC 1035 section 4.1.1): anything else from this port is no business of ours. */
static __always_inline int is_answer(struct __sk_buff *skb, __u32 offset)
{
	enum { FLAGS = 2, QUESTIONS = 5, IS_ANSWER = 0x80, HEADER = 12 };
	__u8 header[HEADER];

	if (bpf_skb_load_bytes(skb, offset, header, HEADER))
		return 0;
	return (header[FLAGS] & IS_ANSWER) && header[QUESTIONS - 1] == 0 && header[QUESTIONS] == 1;
}

static __always_inline void describe_answer(struct __sk_buff *skb, const struct endpoint *endpoint, __u64 cgroup_id,
					    __u32 offset, struct event *out)
{
	enum { SERVER = 12, DESTINATION_PORT = 2 };

	out->time_ns = bpf_ktime_get_ns();
	out->cgroup_id = cgroup_id;
	out->socket_cookie = bpf_get_socket_cookie(skb);
	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		__be32 server = 0;

		bpf_skb_load_bytes(skb, SERVER, &server, sizeof(server));
		address_from_ipv4(&out->peer, server);
	} else {
		bpf_skb_load_bytes(skb, __builtin_offsetof(struct ipv6hdr, saddr), &out->peer, sizeof(out->peer));
	}
	bpf_skb_load_bytes(skb, offset, &out->service_port, sizeof(out->service_port));
	bpf_skb_load_bytes(skb, offset + DESTINATION_PORT, &out->client_port, sizeof(out->client_port));
	out->protocol = PROTOCOL_UDP;
	out->direction = DIRECTION_EGRESS;
	out->verdict = VERDICT_ALLOW;
	out->identity = endpoint->identity;
	out->slot = endpoint->slot;
	out->length = skb->len;
	out->kind = EVENT_DNS_ANSWER;
	out->hook = HOOK_INGRESS;
}

static __always_inline void report_answer(struct __sk_buff *skb, const struct endpoint *endpoint, __u64 cgroup_id,
					  __u32 offset)
{
	enum { UDP_HEADER = 8 };
	__u32 kept = skb->len - offset - UDP_HEADER;
	struct dns_answer *answer = events.ringbuf_reserve(sizeof(struct dns_answer));

	if (!answer) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	__builtin_memset(answer, 0, __builtin_offsetof(struct dns_answer, message));
	describe_answer(skb, endpoint, cgroup_id, offset, &answer->event);
	if (kept > DNS_BYTES)
		kept = DNS_BYTES;
	asm volatile("" : "+r"(kept)); /* the verifier of 5.10 wants the mask below, which LLVM would leave out */
	kept = ((kept - 1) & (DNS_BYTES - 1)) + 1;
	if (bpf_skb_load_bytes(skb, offset + UDP_HEADER, answer->message, kept)) {
		events.ringbuf_discard(answer, 0);
		return;
	}
	answer->kept = kept;
	events.ringbuf_submit(answer, 0);
}

int dns_answer(struct __sk_buff *skb)
{
	enum { UDP_HEADER = 8 };
	__u64 cgroup_id = bpf_skb_cgroup_id(skb);
	struct config *config = configuration();
	struct endpoint *endpoint = config ? endpoint_of_skb(skb, config, cgroup_id) : 0;
	__u32 offset = udp_offset(skb);

	if (!endpoint || endpoint->state != STATE_MANAGED || !offset || !is_answer(skb, offset + UDP_HEADER))
		return 1;
	int index = endpoint->slot;
	struct bucket *bucket = dns_rates.lookup(&index);

	if (bucket && take_token(&bucket->tokens, &bucket->refilled, config, DNS_RATE, DNS_BURST, bpf_jiffies64()))
		report_answer(skb, endpoint, cgroup_id, offset);
	else
		count_loss(LOSS_ANSWER_RATE, 1);
	return 1;
}
