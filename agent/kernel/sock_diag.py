"""Ends TCP sockets from outside: SOCK_DESTROY of sock_diag(7), in the network namespace of the process that has them.

Source: include/uapi/linux/inet_diag.h, sock_diag.h. The application sees ECONNABORTED at once instead of a stall.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.model.protocol import IpProtocol

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_REQUEST, _ACK, _DUMP = 0x01, 0x04, 0x300
_ERROR, _DONE = 2, 3
_SYN_SENT, _SYN_RECEIVED, _TIME_WAIT, _CLOSE, _LISTEN = 2, 3, 6, 7, 10
_ALL_BUT_LISTEN = 0xFFF & ~(1 << _LISTEN)
LISTENING = 1 << _LISTEN
OPEN = _ALL_BUT_LISTEN & ~(1 << _TIME_WAIT) & ~(1 << _CLOSE)
_MESSAGE = struct.Struct("=BBBB48s5I")
_PORTS = struct.Struct("!HH16s16s")
_ATTRIBUTE = struct.Struct("=HH")
_MAP = struct.Struct("=HHi")
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_INFO, _WITH_INFO = 2, 1 << (2 - 1)
_UNACKED_AT, _BYTES_ACKED_AT = 24, 120
"""In struct tcp_info (include/uapi/linux/tcp.h)."""
_REQUEST_BYTECODE, _REQUEST_STORAGES = 1, 2
_STORAGES, _CGROUP_ID = 20, 21
_MAP_DESCRIPTOR, _STORAGE, _VALUE = 1, 1, 3
_TYPE = 0x3FFF
_CODE = struct.Struct("=i")
_HEADER = struct.Struct("=IHHII")
_REQUEST_HEAD = struct.Struct("=BBBBI")
_ID_BYTES = 48
_COOKIE_AT = 40
_CLONE_NEWNET = 0x40000000
_MAPPED = b"\0" * 10 + b"\xff\xff"
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One socket as the kernel lists it; `identity` is struct inet_diag_sockid, packed. `cgroup_id`: of its maker's
    folder; 0 where the kernel has none. `storages`: what it has in the maps that were asked for. `has_sent`: data, as
    far as the kernel was asked for storages.
    """

    family: int
    state: int
    identity: bytes
    cgroup_id: int = 0
    storages: tuple[bytes, ...] = ()
    has_sent: bool = False

    def stored(self, size: int) -> bytes | None:
        """What it has in a map whose values have so many bytes."""
        return next((each for each in self.storages if len(each) == size), None)

    @property
    def asks(self) -> bool:
        """It has sent a SYN, and no answer has come."""
        return self.state == _SYN_SENT

    @property
    def is_asked(self) -> bool:
        """A SYN has come for it."""
        return self.state == _SYN_RECEIVED

    @property
    def listens(self) -> bool:
        return self.state == _LISTEN

    @property
    def local_port(self) -> int:
        return int(_PORTS.unpack_from(self.identity)[0])

    @property
    def remote(self) -> tuple[bytes, int]:
        """(the 16 bytes of the other end's address, IPv4 mapped; its port)"""
        _, port, _, address = _PORTS.unpack_from(self.identity)
        return (address if self.family == socket.AF_INET6 else _MAPPED + address[:4]), int(port)

    @property
    def cookie(self) -> int:
        low, high = struct.unpack_from("=II", self.identity, _COOKIE_AT)
        return int(high) << 32 | int(low)


@contextlib.contextmanager
def inside(namespace: int) -> Iterator[None]:
    """The calling thread is in this network namespace, of which it has a descriptor (needs CAP_SYS_ADMIN)."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace)
        try:
            yield
        finally:
            _setns(before)
    finally:
        os.close(before)


def netlink() -> socket.socket:
    """For the other functions. It stays in the namespace in which it was made, wherever its thread goes."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    made.settimeout(2)
    return made


def end(netlink: socket.socket, found: TcpSocket) -> bool:
    """End this socket; False where it has ended by itself. Listening ones are left alone.

    Raises OSError where the kernel has no SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY).
    """
    _ask(netlink, _SOCK_DESTROY, _REQUEST | _ACK, _request(found.family, found.identity, _ALL_BUT_LISTEN))
    return _acknowledged(netlink.recv(8192))


def listed(
    netlink: socket.socket, family: int, states: int, only: bytes = b"", storages: Sequence[int] = ()
) -> Iterator[TcpSocket]:
    """Sockets in these states. `only`: a program of agent.kernel.sock_filter. `storages`: descriptors of maps
    of socket storages, whose values are asked for too (needs CAP_BPF). Raises OSError.
    """
    request = _request(family, bytes(_ID_BYTES), states, _WITH_INFO if storages else 0)
    if only:
        request += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(only), _REQUEST_BYTECODE) + only
        request += bytes(-len(request) % 4)
    if storages:
        maps = b"".join(_MAP.pack(_MAP.size, _MAP_DESCRIPTOR, each) for each in storages)
        request += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(maps), _REQUEST_STORAGES) + maps
    _ask(netlink, _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, request)
    while True:
        data = netlink.recv(65536)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == _ERROR:
                raise _refusal(data, at)
            if kind == _DONE:
                return
            body = data[at + _HEADER.size : at + length]
            found = dict(_attributes(body, _MESSAGE.size))
            cgroup_id = int.from_bytes(found.get(_CGROUP_ID, b""), sys.byteorder)
            values = tuple(_storages(found.get(_STORAGES, b"")))
            sent = _has_sent(found.get(_INFO, b""))
            yield TcpSocket(body[0], body[1], body[4 : 4 + _ID_BYTES], cgroup_id, values, sent)
            at += (length + 3) & ~3


def _attributes(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _storages(data: bytes) -> Iterator[bytes]:
    """The values in the maps that were asked for, where there are any."""
    of_maps = (dict(_attributes(each)) for kind, each in _attributes(data) if kind == _STORAGE)
    return (each[_VALUE] for each in of_maps if _VALUE in each)


def _has_sent(info: bytes) -> bool:
    """Has it sent data? What was acknowledged counts the SYN of whoever opened; what was not may be data."""
    if len(info) < _BYTES_ACKED_AT + 8:
        return False
    (in_flight,), (acknowledged,) = _U32.unpack_from(info, _UNACKED_AT), _U64.unpack_from(info, _BYTES_ACKED_AT)
    return bool(in_flight or acknowledged > 1)


def _request(family: int, identity: bytes, states: int, more: int = 0) -> bytes:
    return _REQUEST_HEAD.pack(family, IpProtocol.TCP, more, 0, states) + identity


def _ask(netlink: socket.socket, kind: int, flags: int, request: bytes) -> None:
    netlink.send(_HEADER.pack(_HEADER.size + len(request), kind, flags, 1, 0) + request)


def _acknowledged(data: bytes) -> bool:
    (code,) = _CODE.unpack_from(data, _HEADER.size)
    if code in (0, -2):  # -ENOENT: it ended by itself meanwhile
        return bool(code == 0)
    raise OSError(-code, f"SOCK_DESTROY: {os.strerror(-code)}")


def _refusal(data: bytes, at: int) -> OSError:
    (code,) = _CODE.unpack_from(data, at + _HEADER.size)
    return OSError(-code, f"sock_diag: {os.strerror(-code)}")


def _setns(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
