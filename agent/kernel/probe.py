"""What this kernel can do, found by loading a few instructions; and how long its jiffies are."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.errors import KernelError
from agent.kernel import lsm, syscall
from agent.kernel.btf import network_owner, shared_frags, socket_error, write_seq
from agent.kernel.instructions import EXIT, call, set_register, stack_address
from agent.kernel.syscall import AttachType, ProgType
from agent.log import event

_MONOTONIC_COARSE = 6
_HELPER_PROBE_READ_KERNEL = 113
_HELPER_JIFFIES64 = 118
_HELPER_NETNS_COOKIE = 122
_HELPER_SET_RETVAL = 187


@dataclass(frozen=True, slots=True)
class Features:
    """What the kernel has beyond the floor (5.10). Shown by `dagwall status` and in metrics."""

    set_retval: bool  # a refused connect() fails with EACCES; without it with EPERM
    sockops: bool  # pending connections are retried after milliseconds, not after a second
    lsm_cgroup: bool  # sockets that no other hook judges are refused: AF_PACKET, AF_XDP, AF_VSOCK
    skb_netns: (
        bool  # programs can read a packet's network namespace; without it, as long as `creators` has its socket
    )
    sock_error: bool  # programs can read why a connection failed; without it that is told by what the peer sent
    netns_owner: bool  # programs can tell a pod's own network namespace from one that a task made; `fqdn` needs it
    write_seq: bool  # programs can tell whether a TCP socket has more to send than a packet holds; `tls` needs it
    shared_frags: bool  # programs can tell pages that a task may still change; `http` needs it, and write_seq

    def as_dict(self) -> dict[str, bool]:
        return asdict(self)


def _loads(prog_type: ProgType, attach_type: AttachType, code: bytes) -> bool:
    try:
        os.close(syscall.load_program(prog_type, attach_type, code))
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise KernelError(f"this process may not load BPF programs: {exc.strerror}") from exc
        return False
    return True


def features(mount: Path) -> Features:
    """Probe the kernel; most of the time, a tenth of a second, goes into reading its types.

    mount: a cgroup folder that this process is below. Raises KernelError where no program loads at all.
    """
    syscall.raise_memlock()
    retval = set_register(1, -13) + call(_HELPER_SET_RETVAL) + set_register(0, 0) + EXIT
    sockops = set_register(0, 1) + EXIT
    netns = call(_HELPER_NETNS_COOKIE) + set_register(0, 1) + EXIT
    return Features(
        set_retval=_loads(ProgType.CGROUP_SOCK_ADDR, AttachType.CONNECT4, retval),
        sockops=_loads(ProgType.SOCK_OPS, AttachType.SOCK_OPS, sockops),
        lsm_cgroup=lsm.works(mount),
        skb_netns=_loads(ProgType.CGROUP_SKB, AttachType.INET_EGRESS, netns),
        sock_error=_has_types("sock_error", socket_error),
        netns_owner=_has_types("netns_owner", network_owner),
        write_seq=_has_types("write_seq", write_seq),
        shared_frags=_has_types("shared_frags", shared_frags),
    )


def _has_types(feature: str, offsets: Callable[[], object]) -> bool:
    """The kernel's types, and leave to read its memory: lockdown(7) in mode confidentiality gives none."""
    read = stack_address(1, 8) + set_register(2, 8) + set_register(3, 0) + call(_HELPER_PROBE_READ_KERNEL)
    try:
        offsets()
    except OSError as exc:
        event("feature.off", feature=feature, why=str(exc))
        return False
    if _loads(ProgType.CGROUP_SKB, AttachType.INET_EGRESS, read + set_register(0, 1) + EXIT):
        return True
    event("feature.off", feature=feature, why="programs may not read the kernel's memory here")
    return False


class Jiffies:
    """The kernel's tick counter, read by running a two-instruction program."""

    def __init__(self) -> None:
        syscall.raise_memlock()
        self._program = syscall.load_program(ProgType.SOCKET_FILTER, 0, call(_HELPER_JIFFIES64) + EXIT)

    def now(self) -> int:
        """Low 32 bits of jiffies."""
        return syscall.run_program(self._program)[0]

    def close(self) -> None:
        os.close(self._program)


def ticks_a_second() -> int:
    """CONFIG_HZ: the resolution of the kernel's coarse clocks is one tick (clock_getres(2), TICK_NSEC)."""
    return round(1 / time.clock_getres(_MONOTONIC_COARSE))
