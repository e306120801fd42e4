// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* cgroup_skb/ingress, tail-called for packets that may hold the first bytes that a peer sends: when they came, and
 * whether they say that something failed: a TLS alert, or a status of HTTP/1.
 *
 * Returns 1 always: the packet has passed.
 */

/* Offset of a TCP segment's payload; 0: it has none, or nobody can tell. */
static __always_inline __u32 payload_at(struct __sk_buff *skb)
{
	enum { IPV6_HEADER = 40, NEXT_HEADER = 6, DATA_OFFSET = 12 };
	__u32 offset = IPV6_HEADER;
	__u8 byte = 0;

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		if (bpf_skb_load_bytes(skb, 0, &byte, 1))
			return 0;
		offset = (byte & 15) * 4;
	} else if (bpf_skb_load_bytes(skb, NEXT_HEADER, &byte, 1) || byte != PROTOCOL_TCP) {
		return 0;
	}
	if (bpf_skb_load_bytes(skb, offset + DATA_OFFSET, &byte, 1))
		return 0;
	offset += (byte >> 4) * 4;
	return offset < skb->len ? offset : 0;
}

static __always_inline __u16 digits(const __u8 *at)
{
	return (at[0] - '0') * 100 + (at[1] - '0') * 10 + (at[2] - '0');
}

static __always_inline int is_refusal(__u16 status)
{
	return status == 401 || status == 403 || status == 407 || status == 429 || (status >= 500 && status < 600);
}

/* What the first bytes say; CAUSE_NONE: nothing about a failure. An alert that is not encrypted has 2 bytes. */
static __always_inline void read_answer(struct __sk_buff *skb, __u32 offset, struct ending *out)
{
	enum { ALERT = 21, ALERT_BYTES = 7, STATUS_BYTES = 12, STATUS = 9 };
	__u8 start[STATUS_BYTES] = {};

	if (bpf_skb_load_bytes(skb, offset, start, ALERT_BYTES))
		return;
	if (start[0] == ALERT && start[1] == 3 && !start[3] && start[4] == 2) {
		out->cause = CAUSE_TLS_ALERT;
		out->detail = start[6];
		return;
	}
	if (start[0] != 'H' || start[1] != 'T' || start[2] != 'T' || start[3] != 'P' || start[4] != '/' ||
	    bpf_skb_load_bytes(skb, offset, start, STATUS_BYTES))
		return;
	__u16 status = digits(start + STATUS);

	if (is_refusal(status)) {
		out->cause = CAUSE_HTTP_STATUS;
		out->detail = status;
	}
}

/* A proxy that has answered CONNECT with 2xx passes on whatever comes (RFC 9110 section 9.3.6). Any other first answer, and
 * one in pieces that are shorter than its status, opens nothing.
 */
static __always_inline void open_tunnel(struct __sk_buff *skb, __u32 offset, struct bpf_sock *sk)
{
	enum { STATUS_BYTES = 12, STATUS = 9 };
	struct request *r = requests.sk_storage_get(sk, 0, 0);
	__u8 start[STATUS_BYTES] = {};

	if (!r || r->carries != CARRIES_CONNECT || bpf_skb_load_bytes(skb, offset, start, STATUS_BYTES))
		return;
	if (start[0] == 'H' && start[1] == 'T' && start[2] == 'T' && start[3] == 'P' && start[4] == '/' &&
	    start[5] == '1' && digits(start + STATUS) / 100 == 2)
		r->carries = CARRIES_TUNNEL;
}

int answered(struct __sk_buff *skb)
{
	struct ending ending = { .hook = HOOK_INGRESS };
	struct bpf_sock *sk = full_socket(skb);
	__u32 offset = payload_at(skb);

	if (!sk || !offset)
		return 1;
	struct promoted *s = sockets.sk_storage_get(sk, 0, 0);
	struct attempt *attempt = attempts.sk_storage_get(sk, 0, 0);

	if (s && s->waits == WAITS_FOR_ANSWER)
		s->waits = WAITS_FOR_NOTHING;
	open_tunnel(skb, offset, sk);
	if (!attempt)
		return 1;
	attempt->answered_ns = bpf_ktime_get_ns();
	read_answer(skb, offset, &ending);
	if (ending.cause == CAUSE_NONE)
		return 1;
	ending.client_port = bpf_htons(sk->src_port);
	outcome_report(attempt, &ending, bpf_get_socket_cookie(skb));
	return 1;
}
