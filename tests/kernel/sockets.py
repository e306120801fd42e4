"""What a task may try, to be run inside a pod. Each returns what an application would see."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Callable

from tests.kernel.uring import uring_connect


def name_of(exc: OSError) -> str:
    return errno.errorcode.get(exc.errno or 0, "TIMEOUT" if isinstance(exc, TimeoutError) else str(exc))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(address: str, port: int, timeout: float = 3.0) -> str:
    """Connect and be echoed: "ok", or the error's name."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        try:
            s.connect((address, port))
            s.sendall(b"ping")
            return "ok" if s.recv(16) == b"ping" else "closed"
        except OSError as exc:
            return name_of(exc)


def udp(address: str, port: int, timeout: float = 1.0, source_port: int = 0) -> str:
    """An unconnected datagram and its echo."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as s:
        s.settimeout(timeout)
        try:
            if source_port:
                s.bind(("", source_port))
            s.sendto(b"ping", (address, port))
            return "ok" if s.recv(16) == b"ping" else "wrong"
        except OSError as exc:
            return name_of(exc)


def udp_connected(address: str, port: int, timeout: float = 1.0) -> str:
    with socket.socket(_family(address), socket.SOCK_DGRAM) as s:
        s.settimeout(timeout)
        try:
            s.connect((address, port))
        except OSError as exc:
            return f"connect {name_of(exc)}"
        try:
            s.send(b"ping")
            return "ok" if s.recv(16) == b"ping" else "wrong"
        except OSError as exc:
            return name_of(exc)


def attempt(function: Callable[..., object], *args: object) -> str:
    """The word ok, or the name of the error that a system call gave."""
    try:
        function(*args)
    except OSError as exc:
        return name_of(exc)
    return "ok"


def fast_open(address: str, port: int) -> str:
    """TCP fast open: data in the SYN, without connect()."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        return attempt(s.sendto, b"ping", socket.MSG_FASTOPEN, (address, port))


def multipath(address: str, port: int) -> str:
    """MPTCP; "EPROTONOSUPPORT" where the kernel has none."""
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError as exc:
        return name_of(exc)
    with s:
        s.settimeout(3)
        return attempt(s.connect, (address, port))


def by_uring(address: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        result = uring_connect(s, address, port)
        return "ok" if result == 0 else errno.errorcode[-result]


def many_datagrams(address: str, port: int) -> str:
    """sendmmsg(2) of three datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        sent = send_messages(s, address, port, 3)
        return "ok" if sent == 3 else errno.errorcode[-sent]


def send_messages(s: socket.socket, address: str, port: int, count: int) -> int:
    """Number of messages sent, or a negative errno."""
    target = ctypes.create_string_buffer(
        struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(address) + bytes(8), 16
    )
    data = ctypes.create_string_buffer(b"ping", 4)
    iovec = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 4), 16)
    header = struct.pack("=QIIQQQQii", ctypes.addressof(target), 16, 0, ctypes.addressof(iovec), 1, 0, 0, 0, 0)
    messages = ctypes.create_string_buffer((header + bytes(8)) * count, 64 * count)
    libc = ctypes.CDLL(None, use_errno=True)
    sent = libc.sendmmsg(s.fileno(), messages, count, 0)
    return int(sent) if sent >= 0 else -ctypes.get_errno()


def message(address: str, port: int) -> str:
    """sendmsg(2)"""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as s:
        return attempt(s.sendmsg, [b"ping"], [], 0, (address, port))


def a_socket(family: int) -> str:
    """Of a family, with the type that it asks for."""
    kind = socket.SOCK_STREAM if family in (socket.AF_UNIX, socket.AF_INET, socket.AF_VSOCK) else socket.SOCK_RAW
    return attempt(lambda: socket.socket(family, kind).close())


def raw_socket(family: int = socket.AF_INET, protocol: int = socket.IPPROTO_ICMP) -> str:
    return attempt(lambda: socket.socket(family, socket.SOCK_RAW, protocol).close())


def with_option(address: str, port: int, level: int, option: int, value: bytes) -> str:
    """A datagram and its echo, from a socket with an IP option set."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as s:
        s.setsockopt(level, option, value)
        s.settimeout(1)
        try:
            s.sendto(b"ping", (address, port))
            return "ok" if s.recv(16) == b"ping" else "wrong"
        except OSError as exc:
            return name_of(exc)


def checksum(data: bytes) -> int:
    """RFC 1071"""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4_packet(source: str, destination: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    """A packet with its IPv4 header; `fragment` is the flags and offset field."""
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    )  # fmt: skip
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def udp_segment(source_port: int, port: int, data: bytes = b"ping") -> bytes:
    """A UDP header without a checksum, which IPv4 allows."""
    return struct.pack(">HHHH", source_port, port, 8 + len(data), 0) + data


def send_ipv4(packet: bytes, destination: str) -> str:
    """A whole packet by a raw socket with IP_HDRINCL."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        return attempt(s.sendto, packet, (destination, 0))


def ipv6_packet(source: str, destination: str, next_header: int, payload: bytes) -> bytes:
    pack = socket.inet_pton
    head = struct.pack(">IHBB", 6 << 28, len(payload), next_header, 64)
    return head + pack(socket.AF_INET6, source) + pack(socket.AF_INET6, destination) + payload


def send_ipv6(packet: bytes, destination: str) -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        return attempt(s.sendto, packet, (destination, 0))


def echo_message(kind: int, identifier: int) -> bytes:
    """ICMP echo request (8) or reply (0)."""
    message_ = struct.pack(">BBHHH", kind, 0, 0, identifier, 1)
    return struct.pack(">BBHHH", kind, 0, checksum(message_), identifier, 1)


def send_icmp(address: str, kind: int, identifier: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        return attempt(s.sendto, echo_message(kind, identifier), (address, 0))
