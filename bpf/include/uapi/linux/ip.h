/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* RFC 791 section 3.1 */
#ifndef DAGWALL_UAPI_LINUX_IP_H
#define DAGWALL_UAPI_LINUX_IP_H

#include <linux/types.h>

struct iphdr {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	__u8 ihl : 4, version : 4;
#else
	__u8 version : 4, ihl : 4;
#endif
	__u8 tos;
	__be16 tot_len, id, frag_off;
	__u8 ttl, protocol;
	__sum16 check;
	__be32 saddr, daddr;
};

#endif
