"""Small real servers in the world's namespace: DNS, HTTP, HTTPS, and one that speaks like PostgreSQL."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from lab.node import ScratchNode, in_netns

DNS, WAREHOUSE, REPORTS, PARTNER, EXFIL, METADATA = (
    "10.96.0.10",
    "10.96.7.10",
    "10.96.7.20",
    "198.51.100.10",
    "203.0.113.66",
    "169.254.169.254",
)
NAMES = {"api.partner.example": PARTNER, "paste.example": EXFIL}


def start(node: ScratchNode) -> None:
    """All of them; they end with the process."""
    node.add_addresses(DNS, WAREHOUSE, REPORTS, PARTNER, EXFIL, METADATA)
    with in_netns(node.world):
        resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        resolver.bind((DNS, 53))
        postgres = socket.create_server((WAREHOUSE, 5432))
        sites = [socket.create_server((address, 80)) for address in (PARTNER, EXFIL, METADATA)]
        reports = socket.create_server((REPORTS, 8080))
        secured = socket.create_server((PARTNER, 443))
    context = _context()
    _thread(lambda: _resolve(resolver))
    _thread(lambda: _accept(postgres, _speak_postgres))
    _thread(lambda: _accept(secured, lambda each: _speak_http(context.wrap_socket(each, server_side=True))))
    for server in (*sites, reports):
        _thread(lambda server=server: _accept(server, _speak_http))  # type: ignore[misc]


def _thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


def _accept(server: socket.socket, speak: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = server.accept()
        _thread(lambda connection=connection: _serve(connection, speak))  # type: ignore[misc]


def _serve(connection: socket.socket, speak: Callable[[socket.socket], None]) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(2)
        speak(connection)


def _speak_http(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")


def _context() -> ssl.SSLContext:
    """With a certificate of its own making, for every name."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "demo")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    pem = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


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
