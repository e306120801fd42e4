/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Pure: what follows from what was looked up. */
#ifndef DAGWALL_POLICY_H
#define DAGWALL_POLICY_H

#include "packet.h"

/* Protocol and port as one number, as agent/model/want.py computes it: one bit in front holds what a rule without ports
 * means (P4), TCP, UDP, ICMP and ICMPv6.
 */
static __always_inline __u32 port_index(__u8 protocol, __be16 port)
{
	const __u32 ORDINARY = 0x8000;

	switch (protocol) {
	case PROTOCOL_TCP:
		return ORDINARY << 16 | bpf_ntohs(port);
	case PROTOCOL_UDP:
		return (ORDINARY + 1) << 16 | bpf_ntohs(port);
	case PROTOCOL_ICMP:
		return (ORDINARY + 2) << 16;
	case PROTOCOL_ICMPV6:
		return (ORDINARY + 3) << 16;
	case PROTOCOL_SCTP:
		return PROTOCOL_SCTP << 16 | bpf_ntohs(port);
	default:
		return (__u32)protocol << 16;
	}
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
