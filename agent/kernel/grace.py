"""A grace period: until no program runs that may still read what was replaced or deleted.

Source: maybe_wait_bpf_programs() in kernel/bpf/syscall.c: an update of a map of maps returns after every program that
was running has ended (synchronize_rcu(); Linux 4.20).
"""

from __future__ import annotations

import os

from agent.kernel import syscall
from agent.kernel.syscall import MapType

_ZERO = bytes(4)


def wait_for_programs() -> None:
    """Some milliseconds. Raises OSError where the kernel has no room for two maps of one entry."""
    inner = syscall.map_create(MapType.ARRAY, 4, 8, 1)
    try:
        outer = syscall.map_create(MapType.ARRAY_OF_MAPS, 4, 4, 1, inner=inner)
        try:
            syscall.map_update(outer, _ZERO, syscall.descriptor(inner))
        finally:
            os.close(outer)
    finally:
        os.close(inner)
