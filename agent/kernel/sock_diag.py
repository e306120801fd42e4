"""Ends TCP sockets from outside: SOCK_DESTROY of sock_diag(7), in the network namespace of the process that has them.

Source: include/uapi/linux/inet_diag.h, sock_diag.h. The application sees ECONNABORTED at once instead of a stall.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_REQUEST, _ACK, _DUMP = 0x01, 0x04, 0x300
_ERROR, _DONE = 2, 3
_TCP = 6
_LISTEN = 10
_ALL_BUT_LISTEN = 0xFFF & ~(1 << _LISTEN)
_HEADER = struct.Struct("=IHHII")
_REQUEST_HEAD = struct.Struct("=BBBBI")
_ID_BYTES = 48
_COOKIE_AT = 40
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One socket as the kernel lists it; `identity` is struct inet_diag_sockid, packed."""

    family: int
    state: int
    identity: bytes

    @property
    def cookie(self) -> int:
        low, high = struct.unpack_from("=II", self.identity, _COOKIE_AT)
        return int(high) << 32 | int(low)


@contextlib.contextmanager
def network_of(pid: int) -> Iterator[None]:
    """The calling thread is in the network namespace of a process (needs CAP_SYS_ADMIN)."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(before)
    finally:
        os.close(before)


def destroy(cookie: int) -> bool:
    """End the socket with this cookie in the namespace of the calling thread; False where there is none.

    Listening sockets are left alone. Raises OSError where the kernel has no SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY).
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(2)
        for family in (socket.AF_INET, socket.AF_INET6):
            for found in list(_list(netlink, family)):
                if found.cookie == cookie:
                    _ask(netlink, _SOCK_DESTROY, _REQUEST | _ACK, found.family, found.identity)
                    return _acknowledged(netlink.recv(8192))
    return False


def _list(netlink: socket.socket, family: int) -> Iterator[TcpSocket]:
    _ask(netlink, _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, family, bytes(_ID_BYTES))
    while True:
        data = netlink.recv(65536)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind in (_DONE, _ERROR):
                return
            body = data[at + _HEADER.size : at + length]
            yield TcpSocket(body[0], body[1], body[4 : 4 + _ID_BYTES])
            at += (length + 3) & ~3


def _ask(netlink: socket.socket, kind: int, flags: int, family: int, identity: bytes) -> None:
    request = _REQUEST_HEAD.pack(family, _TCP, 0, 0, _ALL_BUT_LISTEN) + identity
    netlink.send(_HEADER.pack(_HEADER.size + len(request), kind, flags, 1, 0) + request)


def _acknowledged(data: bytes) -> bool:
    (code,) = struct.unpack_from("=i", data, _HEADER.size)
    if code in (0, -2):  # -ENOENT: it ended by itself meanwhile
        return bool(code == 0)
    raise OSError(-code, f"SOCK_DESTROY: {os.strerror(-code)}")


def _setns(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
