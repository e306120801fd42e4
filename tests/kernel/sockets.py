"""What a task may try, to be run inside a pod. Each returns what an application would see."""

from __future__ import annotations

import errno
import socket


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
