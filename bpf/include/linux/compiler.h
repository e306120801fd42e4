/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef DAGWALL_LINUX_COMPILER_H
#define DAGWALL_LINUX_COMPILER_H

#define __always_inline inline __attribute__((always_inline))

#endif
