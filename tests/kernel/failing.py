"""Servers that fail in one way each, and what a task does with them."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.node import ScratchNode, in_netns
from tests.kernel.sockets import name_of

Answer = Callable[[socket.socket], None]


class FailingServer:
    """Accepts on one port of the world, and answers each connection by a function, in turn."""

    def __init__(self, node: ScratchNode, address: str, port: int, answer: Answer) -> None:
        node.add_addresses(address)
        with in_netns(node.world):
            self._listener = socket.create_server((address, port))
        self._listener.settimeout(0.1)
        self._answer, self._stopped = answer, threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._listener.close()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            with suppress(TimeoutError, OSError), self._listener.accept()[0] as connection:
                connection.settimeout(5)
                self._answer(connection)


def reset(connection: socket.socket) -> None:
    """Takes the question, and answers with RST."""
    connection.recv(64)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close_early(connection: socket.socket) -> None:
    connection.recv(64)


def status(code: int) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % code)
        connection.recv(1)

    return answer


def newest_tls_only(certificate: Path) -> Answer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)

    def answer(connection: socket.socket) -> None:
        with suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True):
            pass

    return answer


def make_certificate(path: Path) -> Path:
    """Key and certificate of nobody in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "failing.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
    )
    return path


# In a pod: each returns the error that the task saw, and its pid and name.

Seen = tuple[str, int, str]


def _seen(what: str) -> Seen:
    return what, os.getpid(), Path("/proc/self/comm").read_text().rstrip("\n")


def ask(address: str, port: int, timeout: float = 5.0, question: bytes = b"GET / HTTP/1.1\r\n\r\n") -> Seen:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect((address, port))
            sock.sendall(question)
            return _seen(sock.recv(64)[:12].decode() or "closed")
        except OSError as exc:
            return _seen(name_of(exc))


def ask_old_tls(address: str, port: int) -> Seen:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with socket.create_connection((address, port), timeout=5) as sock, context.wrap_socket(sock):
            return _seen("ok")
    except ssl.SSLError as exc:
        return _seen(exc.reason or "SSLError")


def listen(port: int) -> None:
    with socket.create_server(("", port)):
        signal.pause()
