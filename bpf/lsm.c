// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* lsm_cgroup/socket_create: no socket of a family whose traffic no other hook judges, as AF_PACKET, AF_XDP, AF_VSOCK.
 *
 * Arguments of security_socket_create(): family, type, protocol, kern. Returns 1: goes on; 0: EPERM.
 */

static __always_inline int family_is_judged(__u8 family)
{
	enum { UNIX = 1, INET = 2, INET6 = 10, NETLINK = 16, ALG = 38 }; /* ALG has no traffic of its own */

	return family == UNIX || family == INET || family == INET6 || family == NETLINK || family == ALG;
}

int socket_create(__u64 *arguments)
{
	__u8 family = arguments[0];
	int in_kernel = arguments[3];

	if (in_kernel || family_is_judged(family))
		return 1;
	return may_have_socket(HOOK_SOCKET_CREATE, family, 0);
}
