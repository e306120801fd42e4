"""TLS hellos: what OpenSSL sends, and what it never would; and what a task may do with them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence

from tests.kernel.sockets import name_of

SERVER_NAME, KEY_SHARE, ECH = 0, 51, 0xFE0D
END = b"and the end"
MSG_EOR, MSG_FASTOPEN, MPTCP = 0x80, 0x20000000, 262
TCP_MAXSEG = 2


def openssl(name: str | None, **options: int) -> bytes:
    """The first flight of this machine's OpenSSL; without a name that of a client that knows an address only."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for key, value in options.items():
        setattr(context, key, value)
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def named(*names: bytes, kind: int = 0) -> bytes:
    """The extension server_name."""
    listed = b"".join(struct.pack(">BH", kind, len(name)) + name for name in names)
    return extension(SERVER_NAME, struct.pack(">H", len(listed)) + listed)


def message(extensions: Sequence[bytes], *, kind: int = 1, more: int = 0) -> bytes:
    """A handshake message; `more`: how much longer its extensions say they are."""
    every = b"".join(extensions)
    body = b"\x03\x03" + os.urandom(32) + b"\x20" + os.urandom(32) + b"\x00\x04\x13\x01\x13\x02" + b"\x01\x00"
    body += struct.pack(">H", len(every) + more) + every
    return struct.pack(">I", kind << 24 | len(body)) + body


def records(payload: bytes, *sizes: int, kind: int = 22, version: int = 0x0301) -> bytes:
    """In records of these sizes, then one of all that is left."""
    made, at = b"", 0
    for size in (*sizes, len(payload)):
        part = payload[at : at + size]
        at += len(part)
        made += struct.pack(">BHH", kind, version, len(part)) + part if part else b""
    return made


def hello(name: bytes | None, size: int = 0, *extensions: bytes) -> bytes:
    """Of about so many bytes, as post-quantum key shares make them: the name comes behind the share."""
    share = extension(KEY_SHARE, os.urandom(size)) if size else b""
    return records(message([share, *([named(name)] if name is not None else []), *extensions]))


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def answer(sock: socket.socket, sent: int, seconds: float = 4.0) -> str:
    """Whether all that was sent comes back, or what went wrong, and in which time."""
    began, got = time.monotonic(), 0
    sock.settimeout(seconds)
    try:
        while got < sent:
            part = sock.recv(65536)
            if not part:
                return "closed"
            got += len(part)
    except OSError as exc:
        late = " late" if time.monotonic() - began > 2 else ""
        return name_of(exc) + late
    return "ok"


def talks(address: str, port: int, *pieces: bytes, gap: float = 0.0, flags: int = 0, mss: int = 0) -> str:
    """Each piece by a write of its own, then an end: "ok" where the echo of all comes back."""
    with socket.socket(family(address), socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        try:
            if mss:
                sock.setsockopt(socket.IPPROTO_TCP, TCP_MAXSEG, mss)
            sock.connect((address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                sock.send(piece, flags)
                if gap:
                    time.sleep(gap)
            sock.sendall(END)
        except OSError as exc:
            return name_of(exc)
        return answer(sock, sum(map(len, pieces)) + len(END))


def talks_split_everywhere(address: str, port: int, whole: bytes, step: int) -> list[int]:
    """Where a hello in two writes did not come through."""
    cuts = range(1, len(whole), step)
    return [cut for cut in cuts if talks(address, port, whole[:cut], whole[cut:]) != "ok"]


def talks_by_sendfile(address: str, port: int, whole: bytes, size: int) -> str:
    with socket.create_connection((address, port), timeout=5) as sock:
        for at in range(0, len(whole), size):
            fd = os.memfd_create("piece")
            os.write(fd, whole[at : at + size])
            try:
                os.sendfile(sock.fileno(), fd, 0, size)
            except OSError as exc:
                return name_of(exc)
            finally:
                os.close(fd)
        return answer(sock, len(whole))


def talks_early(address: str, port: int, whole: bytes) -> str:
    """A write that waits in the socket while it connects."""
    with socket.socket(family(address), socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((address, port))
        try:
            sock.setblocking(True)
            sock.send(whole)
        except OSError as exc:
            return name_of(exc)
        return answer(sock, len(whole))


def talks_in_the_syn(address: str, port: int, whole: bytes) -> str:
    """TCP fast open: the first connection fetches the cookie, the second has data in its SYN."""
    last = ""
    for _ in range(2):
        with socket.socket(family(address), socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            try:
                sock.sendto(whole, MSG_FASTOPEN, (address, port))
            except OSError as exc:
                last = name_of(exc)
                continue
            last = answer(sock, len(whole))
    return last


def talks_by_mptcp(address: str, port: int, whole: bytes) -> str:
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    except OSError as exc:
        return name_of(exc)
    with sock:
        sock.settimeout(5)
        sock.connect((address, port))
        sock.send(whole)
        return answer(sock, len(whole), 2)


def talks_again(
    address: str, port: int, first: bytes, other: tuple[str, int], second: bytes,
    *, writes: int = 0, protocol: int = 0, wait: float = 0.0,
) -> list[str]:  # fmt: skip
    """One socket for two connections, one after the other. `writes` more, and their answers, follow the first hello:
    of so many packets one copies the flow into the socket. `wait`: seconds from the socket to its first connect."""
    said = []
    with socket.socket(family(address), socket.SOCK_STREAM, protocol) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        time.sleep(wait)
        for where, whole in (((address, port), first), (other, second)):
            sock.settimeout(5)
            try:
                sock.connect(where)
                sock.sendall(whole)
                said.append(answer(sock, len(whole)))
                for _ in range(0 if said[1:] else writes):
                    sock.sendall(b"y" * 10)
                    assert answer(sock, 10) == "ok"
            except OSError as exc:
                said.append(name_of(exc))
            if not said[1:]:
                disconnect(sock)
    return said


def greets_itself(port: int, whole: bytes, second: bytes) -> tuple[list[str], list[bytes]]:
    """A pod on the host's network that serves itself: a hello to 127.0.0.1, then the same socket to 0.0.0.0."""
    arrived: list[bytes] = []
    with socket.create_server(("0.0.0.0", port)) as server:

        def serve() -> None:
            for _ in range(3):
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    threading.Thread(target=echo, args=(connection,), daemon=True).start()

        def echo(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    arrived.append(data)
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        fresh = talks("0.0.0.0", port, second)
        return [fresh, *talks_again("127.0.0.1", port, whole, ("0.0.0.0", port), second)], arrived


def disconnect(sock: socket.socket) -> None:
    """connect() to AF_UNSPEC, which Python has no word for."""
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(sock.fileno(), bytes(16), 16) == 0


def keeps_talking(
    address: str,
    port: int,
    whole: bytes,
    seconds: float,
    *,
    silent: bool = False,
    start: bytes = b"",
    ping: bytes = b"ping",
) -> str:
    """Greets, with `start` first, and then a `ping` now and then, or nothing: how it ends, or "open"."""
    with socket.create_connection((address, port), timeout=5) as sock:
        try:
            for piece in filter(None, (start, whole)):
                sock.sendall(piece)
                if (said := answer(sock, len(piece))) != "ok":
                    return said
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                if silent:
                    if select.select([sock], [], [], 0.1)[0]:
                        return "ended" if not sock.recv(1) else "data"
                    continue
                sock.sendall(ping)
                if answer(sock, len(ping)) != "ok":
                    return "ended"
                time.sleep(0.05)
        except OSError as exc:
            return name_of(exc)
    return "open"
