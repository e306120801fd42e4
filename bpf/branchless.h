/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Pure: choices that are computed. A branch in a loop doubles the ways through it for the verifier, which follows each;
 * how many it can drop again depends on its release and on what the compiler has made of the loop.
 */
#ifndef DAGWALL_BRANCHLESS_H
#define DAGWALL_BRANCHLESS_H

/* A number of which LLVM does not know that it is 0 or 1: else it makes a branch of what is computed from it. */
static __always_inline __u64 opaque(__u64 value)
{
	asm volatile("" : "+r"(value));
	return value;
}

/* 1: zero; 0: not. */
static __always_inline __u64 is_zero(__u64 value)
{
	return opaque(1 - (opaque(value | -value) >> 63));
}

/* 1: a < b; 0: not. Both below 2^63. */
static __always_inline __u64 is_less(__u64 a, __u64 b)
{
	return opaque((a - b) >> 63);
}

#endif
