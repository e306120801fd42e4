"""connect() by io_uring, with the three system calls that it takes (io_uring_setup(2), io_uring_enter(2))."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_SETUP, _ENTER = 425, 426
_OP_CONNECT = 16
_OFF_SQ, _OFF_CQ, _OFF_SQES = 0, 0x8000000, 0x10000000
_GETEVENTS = 1


def _sockaddr(address: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(address) + bytes(8)


def uring_connect(s: socket.socket, address: str, port: int) -> int:
    """The completion's result: 0, or a negative errno. Raises OSError where the kernel has no io_uring."""
    params = ctypes.create_string_buffer(120)
    ring = _LIBC.syscall(_SETUP, 2, params)
    if ring < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    sq_entries, cq_entries = struct.unpack_from("=II", params.raw)
    _, sq_tail, sq_mask, _, _, _, sq_array = struct.unpack_from("=7I", params.raw, 40)
    cq_head, _, cq_mask, _, _, cqes = struct.unpack_from("=6I", params.raw, 80)
    sq = mmap.mmap(ring, sq_array + sq_entries * 4, offset=_OFF_SQ)
    cq = mmap.mmap(ring, cqes + cq_entries * 16, offset=_OFF_CQ)
    sqes = mmap.mmap(ring, sq_entries * 64, offset=_OFF_SQES)
    target = ctypes.create_string_buffer(_sockaddr(address, port), 16)
    (tail,), (mask,) = struct.unpack_from("=I", sq, sq_tail), struct.unpack_from("=I", sq, sq_mask)
    index = tail & mask
    struct.pack_into(
        "=BBHiQQIIQ", sqes, index * 64, _OP_CONNECT, 0, 0, s.fileno(), 16, ctypes.addressof(target), 0, 0, 1
    )
    struct.pack_into("=I", sq, sq_array + index * 4, index)
    struct.pack_into("=I", sq, sq_tail, tail + 1)
    if _LIBC.syscall(_ENTER, ring, 1, 1, _GETEVENTS, None, 0) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_enter")
    (head,), (mask,) = struct.unpack_from("=I", cq, cq_head), struct.unpack_from("=I", cq, cq_mask)
    _, result = struct.unpack_from("=Qi", cq, cqes + (head & mask) * 16)
    os.close(ring)
    return int(result)
