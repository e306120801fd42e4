/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* RFC 8200 section 3 */
#ifndef DAGWALL_UAPI_LINUX_IPV6_H
#define DAGWALL_UAPI_LINUX_IPV6_H

#include <linux/types.h>

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__be16 u6_addr16[8];
		__be32 u6_addr32[4];
	} in6_u;
};

struct ipv6hdr {
	__be32 version_class_label;
	__be16 payload_len;
	__u8 nexthdr, hop_limit;
	struct in6_addr saddr, daddr;
};

#endif
