/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Pure: what follows from what was looked up. */
#ifndef DAGWALL_POLICY_H
#define DAGWALL_POLICY_H

#include "packet.h"

/* Index into `ports`, as agent/model/want.py computes it. */
static __always_inline __u32 port_index(__u8 protocol, __be16 port)
{
	enum { PORTS = 65536 };

	if (protocol == PROTOCOL_TCP)
		return bpf_ntohs(port);
	if (protocol == PROTOCOL_UDP)
		return PORTS + bpf_ntohs(port);
	if (protocol == PROTOCOL_SCTP)
		return 2 * PORTS + bpf_ntohs(port);
	return 3 * PORTS + protocol;
}

/* Port class of what no policy mentions: a rule without ports means TCP, UDP, ICMP and ICMPv6 (P4). */
static __always_inline __u32 unmentioned_port_class(__u8 protocol)
{
	return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP || protocol == PROTOCOL_ICMP ||
			       protocol == PROTOCOL_ICMPV6
		       ? PORT_ANY
		       : PORT_OTHER;
}

/* P9: is an answer that comes now still one to the question that was asked, or answered, at `last`? */
static __always_inline int answers_in_time(const struct config *config, __u32 last, __u32 now)
{
	return now - last <= config->reply_ticks;
}

/* Takes one token; refills by `rate` a second up to `burst`. Races between CPUs cost a token, never a verdict. */
static __always_inline int take_token(__u32 *bucket, __u32 *refilled, const struct config *config, __u32 rate,
				      __u32 burst, __u32 now)
{
	enum { FULL_AFTER_SECONDS = 8 }; /* a longer silence fills the bucket, and would overflow the product below */
	__u32 hz = config->hz ? config->hz : 100;
	__u32 elapsed = now - *refilled;
	__u32 tokens = *bucket;

	if (elapsed >= hz * FULL_AFTER_SECONDS || *refilled == 0) {
		tokens = burst;
		*refilled = now;
	} else if (elapsed * rate >= hz) {
		tokens += elapsed * rate / hz;
		if (tokens > burst)
			tokens = burst;
		*refilled = now;
	}
	*bucket = tokens ? tokens - 1 : 0;
	return tokens != 0;
}

#endif
