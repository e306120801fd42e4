"""A few BPF instructions, for programs that ask the kernel what it can do. Source: RFC 9669."""

from __future__ import annotations

import struct


def _instruction(op: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", op, dst | src << 4, offset, immediate)


EXIT = _instruction(0x95)


def call(helper: int) -> bytes:
    return _instruction(0x85, immediate=helper)


def set_register(register: int, value: int) -> bytes:
    return _instruction(0xB7, dst=register, immediate=value)


def stack_address(register: int, below: int) -> bytes:
    """A register = so many bytes below the top of the program's stack."""
    return _instruction(0xBF, dst=register, src=10) + _instruction(0x07, dst=register, immediate=-below)


def load_argument(number: int) -> bytes:
    """R0 = an argument, from 0 on, of the function that the program is attached to."""
    return _instruction(0x79, src=1, offset=8 * number)


def skip_unless(value: int, instructions: int) -> bytes:
    """Jump over so many instructions unless R0's low 32 bits are the value."""
    return _instruction(0x56, offset=instructions, immediate=value)
