/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* bcc includes this first, and asks for one option. The programs use no kernel configuration. */
#define __KERNEL__ 1
#define CONFIG_BPF_SYSCALL 1
