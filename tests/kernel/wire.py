"""What really crossed the wire: every packet that a scratch node's "world" namespace sees."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from lab.node import in_netns

_ALL = 0x0003
_IPV4, _IPV6 = 0x0800, 0x86DD
_WITH_PORTS = (6, 17, 132)


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet; ports are 0 where the protocol has none."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    source_port: int
    port: int


class Wire:
    """A packet socket on every interface of a namespace. IPv4 options and IPv6 extension headers are not parsed."""

    def __init__(self, netns: str) -> None:
        with in_netns(netns):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.setblocking(False)
        self.seen: set[Seen] = set()

    def look(self) -> set[Seen]:
        """Everything since the last `forget`."""
        while True:
            try:
                data, (_, kind, *_) = self._socket.recvfrom(128)
            except BlockingIOError:
                return self.seen
            packet = _parsed(kind, data)
            if packet is not None:
                self.seen.add(packet)

    def forget(self) -> None:
        self.look()
        self.seen = set()

    def close(self) -> None:
        self._socket.close()


def _parsed(kind: int, data: bytes) -> Seen | None:
    if kind == _IPV4:
        protocol, at = data[9], 20
        source, destination = data[12:16], data[16:20]
    elif kind == _IPV6:
        protocol, at = data[6], 40
        source, destination = data[8:24], data[24:40]
    else:
        return None
    ports = struct.unpack_from(">HH", data, at) if protocol in _WITH_PORTS else (0, 0)
    return Seen(ip_address(source), ip_address(destination), protocol, *ports)
