/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* bcc only asks whether the kernel is old; dagwall's floor is 5.10. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 10, 0)
