"""What this kernel can do, found by loading a few instructions; and how long its jiffies are, by measuring."""

from __future__ import annotations

import errno
import os
import struct
import time
from dataclasses import asdict, dataclass

from agent.errors import KernelError
from agent.kernel import syscall
from agent.kernel.syscall import AttachType, ProgType

_KNOWN_RATES = (100, 250, 300, 1000)


def _instruction(op: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", op, dst | src << 4, offset, immediate)


def _call(helper: int) -> bytes:
    return _instruction(0x85, immediate=helper)


_EXIT = _instruction(0x95)
_HELPER_JIFFIES64 = 118
_HELPER_SET_RETVAL = 187


def _set_register(register: int, value: int) -> bytes:
    return _instruction(0xB7, dst=register, immediate=value)


@dataclass(frozen=True, slots=True)
class Features:
    """What the kernel has beyond the floor (5.10). Shown by `dagwall status` and in metrics."""

    set_retval: bool  # a refused connect() says EACCES; without it EPERM
    sockops: bool  # pending connections are retried after milliseconds, not after a second

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


def features() -> Features:
    """Probe the kernel; takes well under a millisecond. Raises KernelError where no program loads at all."""
    syscall.raise_memlock()
    retval = _set_register(1, -13) + _call(_HELPER_SET_RETVAL) + _set_register(0, 0) + _EXIT
    sockops = _set_register(0, 1) + _EXIT
    return Features(
        set_retval=_loads(ProgType.CGROUP_SOCK_ADDR, AttachType.CONNECT4, retval),
        sockops=_loads(ProgType.SOCK_OPS, AttachType.SOCK_OPS, sockops),
    )


class Jiffies:
    """The kernel's tick counter, read by running a two-instruction program."""

    def __init__(self) -> None:
        syscall.raise_memlock()
        self._program = syscall.load_program(ProgType.SOCKET_FILTER, 0, _call(_HELPER_JIFFIES64) + _EXIT)

    def now(self) -> int:
        """Low 32 bits of jiffies."""
        return syscall.run_program(self._program)[0]

    def close(self) -> None:
        os.close(self._program)


def measure_hz(jiffies: Jiffies, seconds: float = 0.1) -> int:
    """Ticks a second. Counts over whole ticks, so that a tenth of a second tells 250 from 300."""
    start = jiffies.now()
    while (first := jiffies.now()) == start:
        pass
    began = time.monotonic()
    time.sleep(seconds)
    edge = jiffies.now()
    while (last := jiffies.now()) == edge:
        pass
    rate = ((last - first) & 0xFFFFFFFF) / (time.monotonic() - began)
    nearest = min(_KNOWN_RATES, key=lambda known: abs(known - rate))
    return nearest if abs(nearest - rate) < nearest * 0.08 else round(rate)
