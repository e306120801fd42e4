// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* sockops: while an endpoint is pending its SYN is dropped; make the stack send it again after some ticks, not after
 * a second, and often enough to wait as long as it would have. And: a socket's new connection begins without what is
 * known of the one before; how connections that pods opened came to their end.
 *
 * Returns 1 always; `reply` is set only where it means the first retry of a pending socket.
 */

static __always_inline void retry_soon(struct bpf_sock_ops *ctx, struct promoted *s)
{
	enum { LEVEL_TCP = 6, OPTION_SYNCNT = 7 };
	struct config *config = configuration();

	if (!config || (s->waits != WAITS_FOR_AGENT && s->waits != WAITS_FOR_RETRY))
		return;
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		int tries = config->syn_tries;

		bpf_setsockopt(ctx, LEVEL_TCP, OPTION_SYNCNT, &tries, sizeof(tries));
	} else if (s->waits == WAITS_FOR_AGENT) { /* later calls ask for the time to give up */
		s->waits = WAITS_FOR_RETRY;
		ctx->reply = config->syn_ticks;
	}
}

/* A socket that has had a connection before begins anew, whatever has let it connect again: connect() to an address or to
 * none, data in the SYN, or MPTCP for a subflow of its own.
 */
static __always_inline void begin_anew(struct bpf_sock *sk, struct promoted *s)
{
	struct greeting *greeting = greetings.sk_storage_get(sk, 0, 0);
	struct request *request = requests.sk_storage_get(sk, 0, 0);

	if (s) {
		s->greeted = 0;
		s->epoch = 0;
	}
	if (greeting)
		greeting->seen = greeting->start_tls = 0;
	if (request)
		request->carries = CARRIES_NOTHING;
}

#ifdef HAVE_SOCK_ERROR
/* By number: see dns.c. */
static __always_inline long read_kernel(void *to, __u32 size, __u64 from)
{
	enum { HELPER_PROBE_READ_KERNEL = 113 };

	return ((long (*)(void *, __u32, const void *))HELPER_PROBE_READ_KERNEL)(to, size, (const void *)from);
}

/* ICMP errors that came while the task was in a system call are in a queue; tasks that do not block learn of them by it,
 * ask for the error, which clears it, and close (kernel: tcp_v4_err(), ip_icmp_error(), since 5.16). 0: there is none.
 */
static __always_inline int queued_error(__u64 sk)
{
	__u64 queue = sk + SK_ERROR_QUEUE_OFFSET, first = 0;
	__u32 error = 0;

	if (read_kernel(&first, sizeof(first), queue) || !first || first == queue ||
	    read_kernel(&error, sizeof(error), first + SKB_CB_OFFSET + EXTERR_OFFSET))
		return 0;
	return error < 4096 ? error : 0;
}
#endif

/* The error that the socket reports to its task, -1 where this kernel does not let programs read it. ctx begins in the
 * kernel with a pointer to the socket (kernel: struct bpf_sock_ops_kern).
 */
static __always_inline int error_of(struct bpf_sock_ops *ctx, int handshake)
{
#ifdef HAVE_SOCK_ERROR
	__u8 start[SOCK_OPS_SK_OFFSET + 8];
	__u64 sk = 0;
	int error = -1;

	if (read_kernel(start, sizeof(start), (__u64)ctx))
		return -1;
	__builtin_memcpy(&sk, start + SOCK_OPS_SK_OFFSET, sizeof(sk));
	if (read_kernel(&error, sizeof(error), sk + SK_ERR_OFFSET))
		return -1;
	return error || !handshake ? error : queued_error(sk);
#else
	return -1;
#endif
}

/* Linux's numbers, the same on all machines that dagwall runs on. */
enum errors { E_CONNABORTED = 103, E_CONNRESET = 104, E_TIMEDOUT = 110, E_CONNREFUSED = 111 };

/* Of a connection that never came about. 1: it is worth a report. */
static __always_inline int why_not_established(struct bpf_sock_ops *ctx, int error, __u64 began_ns, struct ending *out)
{
	enum { PATIENCE_NS = 1000000000 };
	int answered = ctx->segs_in != 0;

	out->detail = error > 0 ? error : 0;
	if (error == E_CONNREFUSED || (error < 0 && answered))
		out->cause = CAUSE_REFUSED;
	else if (error == E_TIMEDOUT)
		out->cause = CAUSE_SYN_TIMEOUT;
	else if (error > 0)
		out->cause = CAUSE_UNREACHABLE;
	else if (ctx->total_retrans || bpf_ktime_get_ns() - began_ns > PATIENCE_NS)
		out->cause = CAUSE_SYN_TIMEOUT; /* the task gave up, or nobody can tell */
	return out->cause != CAUSE_NONE && error != E_CONNABORTED; /* that one is dagwall's own, and a denial */
}

static __always_inline void why_ended(struct bpf_sock_ops *ctx, int error, __u32 state, struct ending *out)
{
	enum { CLOSE = 7, CLOSE_WAIT = 8 };

	out->detail = error > 0 ? error : 0;
	if (state == CLOSE_WAIT)
		out->cause = ctx->data_segs_in ? CAUSE_NONE : CAUSE_CLOSED_EARLY;
	else if (state == CLOSE && error == E_CONNRESET)
		out->cause = CAUSE_RESET;
	else if (state == CLOSE && error > 0 && error != E_CONNABORTED)
		out->cause = CAUSE_STALLED;
}

/* The change of state that ends a handshake in vain, or an established connection: no other is asked for any more. */
static __always_inline void ended(struct bpf_sock_ops *ctx, struct attempt *attempt, __u32 before, __u32 after)
{
	struct ending ending = { .hook = HOOK_SOCKOPS };

	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_STATE_CB_FLAG);
	int error = error_of(ctx, before == SOCKET_SYN_SENT);

	if (before == SOCKET_SYN_SENT && !why_not_established(ctx, error, attempt->began_ns, &ending))
		return;
	if (before == SOCKET_ESTABLISHED)
		why_ended(ctx, error, after, &ending);
	ending.rtt_us = ctx->srtt_us >> 3;
	ending.retransmits = ctx->total_retrans;
	ending.client_port = bpf_htons(ctx->local_port);
	outcome_report(attempt, &ending, bpf_get_socket_cookie(ctx));
}

/* TCP to port 53 has programs of its own (dns.c). */
static __always_inline void established(struct promoted *s, struct attempt *attempt)
{
	enum { DNS_PORT = 53 };

	attempt->established_ns = bpf_ktime_get_ns();
	if (s && attempt->service_port != bpf_htons(DNS_PORT))
		s->waits = WAITS_FOR_ANSWER;
}

int sockops(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;

	if (op != BPF_SOCK_OPS_TIMEOUT_INIT && op != BPF_SOCK_OPS_TCP_CONNECT_CB &&
	    op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	__u32 before = ctx->args[0], after = ctx->args[1];

	if (op == BPF_SOCK_OPS_STATE_CB &&
	    (after == SOCKET_ESTABLISHED || (before != SOCKET_SYN_SENT && before != SOCKET_ESTABLISHED)))
		return 1;
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return 1;
	struct attempt *attempt = attempts.sk_storage_get(sk, 0, 0);

	if (op == BPF_SOCK_OPS_STATE_CB) {
		if (attempt)
			ended(ctx, attempt, before, after);
		return 1;
	}
	struct promoted *s = sockets.sk_storage_get(sk, 0, 0);

	if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		if (attempt)
			established(s, attempt);
		return 1;
	}
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		begin_anew(sk, s);
		if (attempt)
			bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	}
	if (s)
		retry_soon(ctx, s);
	return 1;
}
