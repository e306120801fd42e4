// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* sockops: while an endpoint is pending its SYN is dropped; make the stack send it again after some ticks, not after
 * a second, and often enough to wait as long as it would have.
 *
 * Returns 1 always; `reply` is set only where it means the first retry of a pending socket.
 */
int sockops(struct bpf_sock_ops *ctx)
{
	enum { LEVEL_TCP = 6, OPTION_SYNCNT = 7 };

	if (ctx->op != BPF_SOCK_OPS_TIMEOUT_INIT && ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return 1;
	struct promoted *s = sockets.sk_storage_get(sk, 0, 0);

	if (!s || !s->pending)
		return 1;
	struct config *config = configuration();

	if (!config)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		int tries = config->syn_tries;

		bpf_setsockopt(ctx, LEVEL_TCP, OPTION_SYNCNT, &tries, sizeof(tries));
	} else if (s->pending == 1) { /* later calls ask for the time to give up */
		s->pending = 2;
		ctx->reply = config->syn_ticks;
	}
	return 1;
}
