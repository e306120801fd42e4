// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Judges a connection by the request that it carries just now. */

/* What people read. */
static __always_inline void request_report(const struct config *config, struct event *event, const struct rule *rule,
					   struct request *r)
{
	struct request_event *out;

	if (!may_report(config, event->slot))
		return;
	out = events.ringbuf_reserve(sizeof(struct request_event));

	if (!out) {
		count_loss(LOSS_RING_FULL, 1);
		return;
	}
	event->kind = rule->verdict == VERDICT_DENY ? EVENT_DENIED : EVENT_AUDITED;
	event->verdict = rule->verdict;
	event->reason = rule->reason;
	event->rule = rule->rule;
	event->time_ns = bpf_ktime_get_ns();
	out->event = *event;
	__u32 text = r->count[COUNTED_TUNNEL] || r->count[COUNTED_ABSOLUTE] ? TEXT_AUTHORITY : TEXT_HOST;
	__u32 method = r->used[TEXT_METHOD], host = r->used[text], path = r->used[TEXT_PATH];

	__builtin_memcpy(out->method, r->text, sizeof(out->method));
	if (text == TEXT_HOST)
		__builtin_memcpy(out->host, r->text + TEXT_HOST * TEXT_ROOM, sizeof(out->host));
	else
		__builtin_memcpy(out->host, r->text + TEXT_AUTHORITY * TEXT_ROOM, sizeof(out->host));
	__builtin_memcpy(out->path, r->text + TEXT_PATH * TEXT_ROOM, sizeof(out->path));
	method = method < METHOD_BYTES ? method : METHOD_BYTES - 1;
	host = host < TEXT_ROOM ? host : TEXT_ROOM - 1;
	path = path < TEXT_ROOM ? path : TEXT_ROOM - 1;
	asm volatile("" : "+r"(method), "+r"(host), "+r"(path));
	out->method[method & (METHOD_BYTES - 1)] = 0;
	out->host[host & (TEXT_ROOM - 1)] = 0;
	out->path[path & (TEXT_ROOM - 1)] = 0;
	out->port = r->number[NUMBER_AUTHORITY_PORT];
	__builtin_memset(out->pad, 0, sizeof(out->pad));
	events.ringbuf_submit(out, 0);
}

/* Only now: a packet may be dropped for want of tail calls between the match and the verdict, and be read on later. */
static __always_inline void request_passed(struct request *r, __u32 step)
{
	r->bits = r->tried;
	r->common = requests_before(r, step) ? r->common & r->tried : r->tried;
}

/* Judges the flow anew, with a request. */
int requested_egress(struct __sk_buff *skb)
{
	struct config *config = configuration();
	struct flow_key key = { .cgroup_id = bpf_skb_cgroup_id(skb) };
	struct judged judged = {};
	struct rule rule = {};
	struct event event = {};
	__u32 step = skb->cb[REQUEST_STEP];
	struct bpf_sock *sk = full_socket(skb);
	struct request *r = sk ? requests.sk_storage_get(sk, 0, 0) : 0;
	struct promoted *s = sk ? sockets.sk_storage_get(sk, 0, 0) : 0;

	if (!config || !r || !s)
		return 0;
	endpoint_and_epoch(skb, config, key.cgroup_id, &judged);
	struct endpoint *endpoint = judged.endpoint;

	if (!endpoint || endpoint->state == STATE_PENDING)
		return 0; /* it comes again */
	if (endpoint->state == STATE_UNMANAGED)
		return 1;
	key_of_stream(sk, &key);
	if (step == STEP_PASS)
		return count_greeted(skb, &key, endpoint);
	struct hello *hello = &r->hello;

	r->best = (struct rule){};
	*hello = (struct hello){};
	if (step == STEP_WHOLE || step == STEP_CLEAR || step == STEP_AGAIN)
		hello->requests = r->tried;
	judge_by_names(endpoint, &key, hello, &r->best, &rule);
	int has_failed = hello->failed >> rule.verdict & 1;

	if (has_failed && step == STEP_PART && rule.verdict == VERDICT_DENY)
		return 0; /* the rest of the head is to come */
	event_of_stream(skb, sk, endpoint, &key, &event);
	if (has_failed) {
		if (step == STEP_PART)
			r->fault = DROP_REQUEST_TOO_LONG; /* a policy in audit waits for nothing */
		rule.reason = !(hello->failed & ASKED_REQUESTS) ? DROP_NO_TLS : r->fault ? r->fault : DROP_REQUEST;
		rule.rule = hello->rule;
	}
	if (rule.verdict == VERDICT_DENY || has_failed) {
		count_refusal(&event, &rule, segments(skb));
		request_report(config, &event, &rule, r);
	}
	if (rule.verdict == VERDICT_DENY) {
		r->fault = rule.reason;
		return 0;
	}
	if (has_failed) {
		s->greeted = judged.epoch; /* one report a connection and epoch: what comes later is not read */
		return count_greeted(skb, &key, endpoint);
	}
	if (step == STEP_WHOLE || step == STEP_CLEAR || step == STEP_AGAIN)
		request_passed(r, step);
	if (step == STEP_AGAIN) {
		r->epoch = judged.epoch;
		tail_egress.call(skb, TAIL_REQUEST);
		return 0;
	}
	if (step == STEP_CLEAR) {
		r->cleared = 1;
		r->epoch = judged.epoch;
	} else if (step == STEP_WHOLE) {
		head_ends(r, judged.epoch);
		if (skb->cb[REQUEST_AT] < skb->len && r->carries == CARRIES_CONNECT)
			return request_fails(skb, r, DROP_TUNNEL_EARLY);
		if (skb->cb[REQUEST_AT] < skb->len)
			return request_tail(skb, STEP_PASS, TAIL_REQUEST_READ);
	}
	return count_greeted(skb, &key, endpoint);
}
