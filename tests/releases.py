"""What a kernel asks for, by its release."""

from __future__ import annotations

MEMCG_CHARGES_MAPS = (5, 11)
"""From this kernel on, maps are charged to the cgroup; before, to RLIMIT_MEMLOCK, which SYS_RESOURCE may raise."""


def version_of(release: str) -> tuple[int, ...]:
    """`(6, 1)` of `6.1.0-50-cloud-amd64`."""
    return tuple(int(part) for part in release.split(".")[:2])


def is_needed(capability: str, release: str) -> bool:
    """Of the DaemonSet's capabilities, SYS_RESOURCE is there for old kernels."""
    return capability != "SYS_RESOURCE" or version_of(release) < MEMCG_CHARGES_MAPS
