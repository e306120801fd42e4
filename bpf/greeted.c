// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Judges a connection by what it began with. Packets are known by their socket here. */

/* For which server a connection was begun, or was to be (the verdict), for whoever reads flows. */
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
	out->bits = (g->key.length > RULESET_BITS ? found->named : found->nameless) &
		    (g->start_tls ? found->start_tls : ~found->start_tls);
	out->fits = g->encrypted ? out->bits & found->encrypted : out->bits;
}

/* What `servers` makes of what asks for TLS before a hello, whose name is not known yet. */
static __always_inline void bits_of_start_tls(struct greeting *g, __u32 ruleset, struct hello *out)
{
	g->key.length = RULESET_BITS;
	g->key.ruleset = ruleset;
	struct servers *found = servers.lookup(&g->key);

	if (found)
		out->bits = out->fits = found->start_tls;
}

/* What `servers` makes of what comes first in a tunnel; of what has not come yet, as if it were no hello. */
static __always_inline void bits_in_tunnel(struct greeting *g, __u32 ruleset, const struct request *tunnel,
					   struct hello *out)
{
	int is_hello = g->seen && !g->fault;
	__u32 length = g->key.length;

	if (!is_hello)
		g->key.length = RULESET_BITS;
	g->key.ruleset = ruleset;
	struct servers *found = servers.lookup(&g->key);

	g->key.length = length;
	if (!found)
		return;
	out->bits = length > RULESET_BITS ? found->tunnel_named : found->tunnel_nameless;
	if (!is_hello)
		out->bits = found->tunnel_any;
	out->bits &= tunnel->bits;
	out->requests = g->encrypted ? out->bits & found->tunnel_encrypted : out->bits;
}

/* Why a hello has failed. */
static __always_inline __u8 reason_of(struct greeting *g, const struct hello *hello, const struct request *tunnel)
{
	int has_name = g->key.length > RULESET_BITS;

	if (tunnel && !g->fault)
		return hello->bits ? DROP_ENCRYPTED_HELLO : has_name ? DROP_SERVER_NAME : DROP_NO_SERVER_NAME;
	if (tunnel)
		return g->fault;
	if (!hello->asked)
		return DROP_NO_HTTP; /* its rules ask for that */
	if (g->fault)
		return g->fault;
	if (hello->bits & hello->asked)
		return DROP_ENCRYPTED_HELLO;
	struct servers *found = servers.lookup(&g->key);

	if (found && (has_name ? found->named : found->nameless) & hello->asked)
		return DROP_START_TLS;
	return has_name ? DROP_SERVER_NAME : DROP_NO_SERVER_NAME;
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
	struct bpf_sock *sk = full_socket(skb);

	struct greeting *g = sk ? greetings.sk_storage_get(sk, 0, 0) : 0;
	struct promoted *s = sk ? sockets.sk_storage_get(sk, 0, 0) : 0;

	if (!config || !g || !s)
		return 0;
	struct request *tunnel = tunnel_of(sk);

	endpoint_and_epoch(skb, config, key.cgroup_id, &judged);
	struct endpoint *endpoint = judged.endpoint;

	if (!endpoint || endpoint->state == STATE_PENDING)
		return 0; /* it comes again */
	if (endpoint->state == STATE_UNMANAGED)
		return 1;
	key_of_stream(sk, &key);
	if (!g->seen && skb->cb[WORD_STATE] != READ_IN_PART && skb->cb[WORD_STATE] != READ_START_TLS)
		return count_greeted(skb, &key, endpoint); /* no data yet */
	if (tunnel)
		bits_in_tunnel(g, endpoint->ruleset, tunnel, &hello);
	else if (g->seen)
		bits_of(g, endpoint->ruleset, &hello);
	else if (skb->cb[WORD_STATE] == READ_START_TLS)
		bits_of_start_tls(g, endpoint->ruleset, &hello);
	judge_by_names(endpoint, &key, &hello, &best, &rule);
	int has_failed = hello.failed >> rule.verdict & 1;

	event_of_stream(skb, sk, endpoint, &key, &event);
	event.verdict = rule.verdict;
	if (skb->cb[WORD_STATE] == READ_NOW)
		report_hello(config, &event, g);
	if (skb->cb[WORD_STATE] == READ_START_TLS && !has_failed && rule.hellos)
		return count_greeted(skb, &key, endpoint); /* the hello is to come */
	if (has_failed) {
		if (skb->cb[WORD_STATE] == READ_START_TLS)
			g->fault = DROP_NO_TLS;
		if (!g->seen && !g->fault && rule.verdict == VERDICT_DENY)
			return 0; /* the rest of the hello is to come */
		if (!g->seen && !g->fault)
			g->fault = DROP_HELLO_TOO_LONG; /* a policy in audit waits for nothing */
		rule.reason = reason_of(g, &hello, tunnel);
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
