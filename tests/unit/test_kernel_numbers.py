"""Numbers that come from the kernel, and the number by which it is called."""

from __future__ import annotations

import struct

import pytest

from agent.errors import KernelError
from agent.kernel import migrate, syscall
from agent.kernel.maps import sum_per_cpu
from agent.kernel.syscall import Command

NEAR_THE_END = (1 << 64) - 3


def test_an_architecture_whose_system_call_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """321 is bpf(2) on x86_64 only: elsewhere the agent would make some other call."""
    monkeypatch.setattr(syscall.platform, "machine", lambda: "riscv64")
    syscall._number.cache_clear()
    try:
        with pytest.raises(KernelError, match="does not run on riscv64: allowed are aarch64 and x86_64"):
            syscall.bpf(Command.PROG_BY_ID, b"")
    finally:
        syscall._number.cache_clear()


def test_sums_over_processors_are_modulo_2_to_the_64() -> None:
    """One processor's counter may be below zero for a moment: the sum is what was counted."""
    assert sum_per_cpu(struct.pack("=4Q", NEAR_THE_END, 1, 10, 2), 2) == (7, 3)


def test_what_an_older_release_counted_since_the_copy_is_a_difference_modulo_2_to_the_64() -> None:
    more = migrate._minus(struct.pack("=Q", 2), struct.pack("=Q", NEAR_THE_END))
    assert more == (5,)
    assert migrate._plus(struct.pack("=Q", NEAR_THE_END), more) == struct.pack("=Q", 2)
