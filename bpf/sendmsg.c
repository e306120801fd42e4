// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* cgroup/sendmsg4 and sendmsg6: datagrams of pods on the host's network to a multicast group or to everybody.
 *
 * The stack gives the node's own sockets a copy that has no socket and meets no egress hook, before egress drops the
 * rest. Returns 1: goes on, egress decides; 0: EPERM. All other pods' calls go on after one lookup.
 */
static __always_inline int sendmsg(struct bpf_sock_addr *ctx, const struct address *peer)
{
	return may_reach_group(bpf_get_current_cgroup_id(), peer, ctx->protocol, ctx->user_port, HOOK_SENDMSG);
}

int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct address peer;

	address_from_ipv4(&peer, ctx->user_ip4);
	return sendmsg(ctx, &peer);
}

int sendmsg6(struct bpf_sock_addr *ctx)
{
	struct address peer;

	address_of_call(ctx, &peer);
	return sendmsg(ctx, &peer);
}
