"""Small real servers in the world's namespace: DNS, HTTP, and one that speaks like PostgreSQL."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from lab.node import ScratchNode, in_netns

DNS, WAREHOUSE, PARTNER, EXFIL, METADATA = (
    "10.96.0.10",
    "10.96.7.10",
    "198.51.100.10",
    "203.0.113.66",
    "169.254.169.254",
)
NAMES = {"api.partner.example": PARTNER, "paste.example": EXFIL}


def start(node: ScratchNode) -> None:
    """All of them; they end with the process."""
    node.add_addresses(DNS, WAREHOUSE, PARTNER, EXFIL, METADATA)
    with in_netns(node.world):
        resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        resolver.bind((DNS, 53))
        postgres = socket.create_server((WAREHOUSE, 5432))
        https = [socket.create_server((address, 80)) for address in (PARTNER, EXFIL, METADATA)]
    _thread(lambda: _resolve(resolver))
    _thread(lambda: _accept(postgres, _speak_postgres))
    for server in https:
        _thread(lambda server=server: _accept(server, _speak_http))  # type: ignore[misc]


def _thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


def _accept(server: socket.socket, speak: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(2)
            speak(connection)


def _speak_http(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")


def _speak_postgres(connection: socket.socket) -> None:
    """AuthenticationOk and ReadyForQuery to any startup message (PostgreSQL protocol 3.0)."""
    connection.recv(4096)
    connection.sendall(struct.pack(">cII", b"R", 8, 0) + struct.pack(">cIc", b"Z", 5, b"I"))


def _resolve(server: socket.socket) -> None:
    """A records for NAMES, NXDOMAIN for the rest (RFC 1035)."""
    while True:
        query, client = server.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question, address = query[12 : at + 5], NAMES.get(".".join(labels))
        head = query[:2] + struct.pack(">HHHHH", 0x8180 if address else 0x8183, 1, 1 if address else 0, 0, 0)
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address) if address else b""
        server.sendto(head + question + answer, client)
