/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Pure: what is in a packet. Addresses are IPv6 with IPv4 mapped; "remote" is the other end, "local" is ours. */
#ifndef DAGWALL_PACKET_H
#define DAGWALL_PACKET_H

#include "branchless.h"
#include "types.h"

enum ethertype { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_IPV6 = 0x86dd };

enum ipv4_fragment { FRAGMENT_BITS = 0x3fff }; /* of frag_off: more fragments, and the offset (RFC 791) */

enum protocol {
	PROTOCOL_HOPOPTS = 0,
	PROTOCOL_ICMP = 1,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	PROTOCOL_ROUTING = 43,
	PROTOCOL_FRAGMENT = 44,
	PROTOCOL_ICMPV6 = 58,
	PROTOCOL_DSTOPTS = 60,
	PROTOCOL_SCTP = 132,
};

/* Of a TCP socket (include/net/tcp_states.h). */
enum socket_state {
	SOCKET_ESTABLISHED = 1,
	SOCKET_SYN_SENT = 2,
	SOCKET_SYN_RECEIVED = 3,
	SOCKET_LISTEN = 10,
	SOCKET_NEW_SYN_RECEIVED = 12,
};

enum packet_role {
	ROLE_ANY = 0,   /* may open a flow, continue it, or answer it */
	ROLE_OPENS = 1, /* TCP SYN without ACK, ICMP echo request: only ever its own direction */
	ROLE_REPLY = 2, /* ICMP echo reply: an answer, unless a rule allows it by itself */
};

struct packet {
	struct address peer;
	struct address local; /* IPv6 only: in the pod's own network namespace IPv4 lets none out that does not come from here */
	__be16 remote_port; /* ICMP echo: 0 */
	__be16 local_port;  /* ICMP echo: 0 */
	__be16 echo_id;
	__u8 protocol;
	__u8 role;
	__u8 reason; /* DROP_NONE, or why it cannot be judged */
	__u8 pad[7];
};

static __always_inline void address_from_ipv4(struct address *out, __be32 ip)
{
	out->word[0] = 0;
	out->word[1] = 0;
	out->word[2] = bpf_htonl(0xffff);
	out->word[3] = ip;
}

static __always_inline int address_equal(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

static __always_inline int address_is_zero(const struct address *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

/* fe80::/10 */
static __always_inline int address_is_link_local(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline int address_is_ipv4(const struct address *a)
{
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == bpf_htonl(0xffff);
}

/* 127.0.0.0/8 and ::1 (P7) */
static __always_inline int address_is_loopback(const struct address *a)
{
	if (address_is_ipv4(a))
		return (bpf_ntohl(a->word[3]) >> 24) == 127;
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == 0 && a->word[3] == bpf_htonl(1);
}

/* 0.0.0.0 and ::, which connect() takes for "this host" */
static __always_inline int address_is_unspecified(const struct address *a)
{
	return a->word[0] == 0 && a->word[1] == 0 && a->word[3] == 0 &&
	       (a->word[2] == 0 || a->word[2] == bpf_htonl(0xffff));
}

/* Multicast, and 255.255.255.255 */
static __always_inline int address_is_group(const struct address *a)
{
	if (address_is_ipv4(a))
		return bpf_ntohl(a->word[3]) >> 28 == 14 || a->word[3] == 0xffffffff;
	return bpf_ntohl(a->word[0]) >> 24 == 0xff;
}

static __always_inline int protocol_has_ports(__u8 protocol)
{
	return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP || protocol == PROTOCOL_SCTP;
}

static __always_inline __u8 tcp_role(__u8 flags)
{
	enum { SYN = 0x02, ACK = 0x10 };
	return (flags & (SYN | ACK)) == SYN ? ROLE_OPENS : ROLE_ANY;
}

/* TCP and UDP without IPv4 options, IPv6 extension headers or fragments, by direct access. Everything else: 0. */
static __always_inline int parse_fast(struct __sk_buff *skb, int way, struct packet *out)
{
	void *start = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__be16 *ports;

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		struct iphdr *ip = start;

		if (start + sizeof(*ip) + 8 > end || ip->ihl != 5 || (ip->frag_off & bpf_htons(FRAGMENT_BITS)))
			return 0;
		out->protocol = ip->protocol;
		address_from_ipv4(&out->peer, way == DIRECTION_INGRESS ? ip->saddr : ip->daddr);
		ports = start + sizeof(*ip);
	} else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6)) {
		struct ipv6hdr *ip = start;

		if (start + sizeof(*ip) + 8 > end)
			return 0;
		out->protocol = ip->nexthdr;
		__builtin_memcpy(&out->peer, way == DIRECTION_INGRESS ? &ip->saddr : &ip->daddr, sizeof(out->peer));
		__builtin_memcpy(&out->local, way == DIRECTION_INGRESS ? &ip->daddr : &ip->saddr, sizeof(out->local));
		ports = start + sizeof(*ip);
	} else {
		return 0;
	}
	if (out->protocol == PROTOCOL_TCP) {
		if ((void *)ports + 20 > end)
			return 0;
		out->role = tcp_role(((__u8 *)ports)[13]);
	} else if (out->protocol != PROTOCOL_UDP) {
		return 0;
	}
	out->remote_port = way == DIRECTION_INGRESS ? ports[0] : ports[1];
	out->local_port = way == DIRECTION_INGRESS ? ports[1] : ports[0];
	return 1;
}

/* IPv4 options (RFC 791): strict and loose source routes name another destination than the header does. */
static __always_inline __u8 scan_ipv4_options(struct __sk_buff *skb, __u32 header_length)
{
	enum { END = 0, NOP = 1, LSRR = 131, SSRR = 137 };
	__u64 offset = 20;

	for (int i = 0; i < 40; i++) {
		__u8 option[2];

		if (offset >= header_length)
			return DROP_NONE;
		if (bpf_skb_load_bytes(skb, offset, option, 2))
			return DROP_INVALID_PACKET;
		__u64 is_nop = is_zero(option[0] ^ NOP);
		__u64 is_source_route = is_zero(option[0] ^ LSRR) | is_zero(option[0] ^ SSRR);
		__u64 is_broken = is_less(option[1], 2) & (1 - is_nop);

		if (is_zero(option[0] ^ END) | is_source_route | is_broken) {
			if (option[0] == END)
				return DROP_NONE;
			return is_source_route ? DROP_SOURCE_ROUTE : DROP_INVALID_PACKET;
		}
		offset += is_nop | (option[1] & (is_nop - 1));
	}
	return DROP_NONE;
}

/* Ports, TCP flags or ICMP echo id, from `offset` on. */
static __always_inline __u8 parse_transport(struct __sk_buff *skb, int way, __u32 offset, struct packet *out)
{
	enum { ECHO_REPLY = 0, ECHO_REQUEST = 8, ECHO_REQUEST_V6 = 128, ECHO_REPLY_V6 = 129 };
	__u8 head[14] = {};
	__be16 source, destination;

	if (out->protocol == PROTOCOL_TCP) {
		if (bpf_skb_load_bytes(skb, offset, head, 14))
			return DROP_INVALID_PACKET;
		out->role = tcp_role(head[13]);
	} else if (protocol_has_ports(out->protocol) || out->protocol == PROTOCOL_ICMP ||
		   out->protocol == PROTOCOL_ICMPV6) {
		if (bpf_skb_load_bytes(skb, offset, head, 8))
			return DROP_INVALID_PACKET;
	} else {
		return DROP_NONE;
	}
	if (protocol_has_ports(out->protocol)) {
		__builtin_memcpy(&source, head, 2);
		__builtin_memcpy(&destination, head + 2, 2);
		out->remote_port = way == DIRECTION_INGRESS ? source : destination;
		out->local_port = way == DIRECTION_INGRESS ? destination : source;
		return DROP_NONE;
	}
	__u8 request = out->protocol == PROTOCOL_ICMP ? ECHO_REQUEST : ECHO_REQUEST_V6;
	__u8 reply = out->protocol == PROTOCOL_ICMP ? ECHO_REPLY : ECHO_REPLY_V6;

	out->role = head[0] == reply ? ROLE_REPLY : ROLE_OPENS;
	if (head[0] == request || head[0] == reply)
		__builtin_memcpy(&out->echo_id, head + 4, 2);
	return DROP_NONE;
}

static __always_inline __u8 parse_ipv4(struct __sk_buff *skb, int way, struct packet *out)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) || ip.ihl < 5)
		return DROP_INVALID_PACKET;
	out->protocol = ip.protocol;
	address_from_ipv4(&out->peer, way == DIRECTION_INGRESS ? ip.saddr : ip.daddr);
	if (ip.frag_off & bpf_htons(FRAGMENT_BITS))
		return DROP_FRAGMENT;
	if (ip.ihl > 5) {
		__u8 reason = scan_ipv4_options(skb, ip.ihl * 4);

		if (reason)
			return reason;
	}
	return parse_transport(skb, way, ip.ihl * 4, out);
}

/* Extension headers in front of the transport header (RFC 8200 section 4), at most six. */
static __always_inline __u8 parse_ipv6(struct __sk_buff *skb, int way, struct packet *out)
{
	struct ipv6hdr ip;
	__u32 offset = sizeof(ip);

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return DROP_INVALID_PACKET;
	out->protocol = ip.nexthdr;
	__builtin_memcpy(&out->peer, way == DIRECTION_INGRESS ? &ip.saddr : &ip.daddr, sizeof(out->peer));
	__builtin_memcpy(&out->local, way == DIRECTION_INGRESS ? &ip.daddr : &ip.saddr, sizeof(out->local));
	for (int i = 0; i < 7; i++) {
		__u8 header[2];

		if (out->protocol == PROTOCOL_ROUTING)
			return DROP_SOURCE_ROUTE;
		if (out->protocol == PROTOCOL_FRAGMENT)
			return DROP_FRAGMENT;
		if (out->protocol != PROTOCOL_HOPOPTS && out->protocol != PROTOCOL_DSTOPTS)
			return parse_transport(skb, way, offset, out);
		if (bpf_skb_load_bytes(skb, offset, header, 2))
			return DROP_INVALID_PACKET;
		out->protocol = header[0];
		offset += 8 + header[1] * 8;
	}
	return DROP_INVALID_PACKET;
}

/* Every packet; `out->reason`: why one cannot be judged on its real peer. */
static __always_inline void parse_full(struct __sk_buff *skb, int way, struct packet *out)
{
	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4))
		out->reason = parse_ipv4(skb, way, out);
	else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6))
		out->reason = parse_ipv6(skb, way, out);
	else
		out->reason = DROP_INVALID_PACKET;
}

/* Where the ports are, and `protocol`; 0: not where they are without extension headers. */
static __always_inline __u32 ports_at(struct __sk_buff *skb, __u8 *protocol)
{
	int is_ipv4 = skb->protocol == bpf_htons(ETHERTYPE_IPV4);
	__u8 first;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return 0;
	if (bpf_skb_load_bytes(skb,
			       is_ipv4 ? __builtin_offsetof(struct iphdr, protocol)
				       : __builtin_offsetof(struct ipv6hdr, nexthdr),
			       protocol, 1))
		return 0;
	if (*protocol != PROTOCOL_UDP && *protocol != PROTOCOL_TCP)
		return 0;
	return is_ipv4 ? (first & 15) * 4 : sizeof(struct ipv6hdr);
}

/* Where a TCP packet's data begin, or would; 0: nobody can tell. */
static __always_inline __u32 stream_at(struct __sk_buff *skb, __u32 *ports)
{
	enum { DATA_OFFSET = 12 };
	__u8 protocol = 0, words;

	*ports = ports_at(skb, &protocol);
	if (!*ports || protocol != PROTOCOL_TCP || bpf_skb_load_bytes(skb, *ports + DATA_OFFSET, &words, 1))
		return 0;
	return *ports + (words >> 4) * 4;
}

/* The key under which `packet` belongs to a flow that was opened in `direction`. `connected`: its UDP socket takes
 * packets from one peer only, so the kernel itself has checked the asking port.
 */
static __always_inline void flow_key_of(const struct packet *packet, __u64 cgroup_id, int direction, int connected,
					struct flow_key *out)
{
	out->cgroup_id = cgroup_id;
	out->peer = packet->peer;
	out->protocol = packet->protocol;
	out->direction = direction;
	out->service_port = direction == DIRECTION_EGRESS ? packet->remote_port : packet->local_port;
	out->client_port = 0;
	if (packet->protocol == PROTOCOL_UDP) {
		if (direction == DIRECTION_INGRESS)
			out->client_port = packet->remote_port;
		else if (!connected)
			out->client_port = packet->local_port;
	} else if (packet->protocol == PROTOCOL_ICMP || packet->protocol == PROTOCOL_ICMPV6) {
		out->client_port = packet->echo_id;
	}
	out->pad[0] = out->pad[1] = 0;
}

/* Of an address; 0 of none, as ours is with IPv4. */
static __always_inline __u32 tag_of_address(const struct address *address)
{
	const __u64 *half = (const __u64 *)address;

	return (half[0] * 0x9e3779b97f4a7c15ull + half[1] * 0xc2b2ae3d27d4eb4full) >> 32;
}

/* One of so many sets. A product's upper bits follow from all bits of the address, its lower ones from some. */
static __always_inline __u32 set_of_address(const struct address *address, __u32 sets)
{
	return (__u64)tag_of_address(address) * sets >> 32;
}

/* Of a flow's key. The kernel hands an entry of `flows` that was evicted to another flow at once, also while a program
 * still reads it: the tag, in one word with the epoch, tells the two apart.
 */
static __always_inline __u32 tag_of_key(const struct flow_key *key)
{
	const __u64 *word = (const __u64 *)key;

	return (word[0] * 0x9e3779b185ebca87ull + word[1] * 0xc2b2ae3d27d4eb4full + word[2] * 0x165667b19e3779f9ull +
		word[3] * 0x85ebca77c2b2ae63ull) >>
	       32;
}

/* Value of `stamp`. Epoch 0 is never current. */
static __always_inline __u64 stamp_of(const struct flow_key *key, __u32 epoch)
{
	return (__u64)tag_of_key(key) << 32 | epoch;
}

static __always_inline int is_stamp_of(__u64 stamp, const struct flow_key *key)
{
	return stamp >> 32 == tag_of_key(key);
}

#endif
