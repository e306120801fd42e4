"""What a task may do with requests of HTTP/1: clients of the tests, each a function that runs in a pod."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import time
from pathlib import Path

from tests.kernel.hellos import answer, family, keeps_talking
from tests.kernel.sockets import name_of


def head(target: str = "/v1/jobs", *headers: str, method: str = "GET", host: str | None = "api.internal") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def sends(address: str, port: int, *pieces: bytes, gap: float = 0.0, flags: int = 0, nodelay: bool = True) -> str:
    """Each piece by a write of its own; "ok" where the echo of all comes back."""
    with socket.socket(family(address), socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect((address, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
            for piece in pieces:
                sock.sendall(piece, flags)
                if gap:
                    time.sleep(gap)
        except OSError as exc:
            return name_of(exc)
        return answer(sock, sum(map(len, pieces)))


def sends_one_by_one(address: str, port: int, *requests: bytes) -> list[str]:
    """By one connection, each after the answer to the one before."""
    said = []
    with socket.create_connection((address, port), timeout=5) as sock:
        for each in requests:
            try:
                sock.sendall(each)
                said.append(answer(sock, len(each)))
            except OSError as exc:
                said.append(name_of(exc))
    return said


def sends_split_everywhere(address: str, port: int, whole: bytes, step: int) -> list[int]:
    """Where a request in two writes did not come through."""
    return [cut for cut in range(1, len(whole), step) if sends(address, port, whole[:cut], whole[cut:]) != "ok"]


def sends_by_sendfile(address: str, port: int, before: bytes, pages: bytes) -> str:
    with socket.create_connection((address, port), timeout=5) as sock:
        fd = os.memfd_create("pages")
        try:
            os.write(fd, pages)
            if before:
                sock.sendall(before)
                time.sleep(0.1)
            sock.settimeout(None)
            at = 0
            while at < len(pages):
                at += os.sendfile(sock.fileno(), fd, at, len(pages) - at)
        except OSError as exc:
            return name_of(exc)
        finally:
            os.close(fd)
        return answer(sock, len(before) + len(pages))


def rewrites_its_pages(address: str, port: int, allowed: bytes, forbidden: bytes) -> str:
    """All but the last byte by sendfile; then the pages change, then the last byte is written."""
    assert len(allowed) == len(forbidden)
    with socket.create_connection((address, port), timeout=5) as sock:
        fd = os.memfd_create("pages")
        os.write(fd, allowed)
        try:
            os.sendfile(sock.fileno(), fd, 0, len(allowed) - 1)
            with mmap.mmap(fd, len(allowed)) as pages:
                pages[:] = forbidden
                sock.send(forbidden[-1:])
        except OSError as exc:
            return name_of(exc)
        finally:
            os.close(fd)
        return answer(sock, len(allowed))


def sends_zero_copy(address: str, port: int, whole: bytes) -> str:
    so_zerocopy, msg_zerocopy = 60, 0x4000000
    with socket.create_connection((address, port), timeout=5) as sock:
        sock.setsockopt(socket.SOL_SOCKET, so_zerocopy, 1)
        try:
            sock.send(whole, msg_zerocopy)
        except OSError as exc:
            return name_of(exc)
        return answer(sock, len(whole))


def sends_from_a_child(address: str, port: int, first: bytes, second: bytes) -> list[str]:
    """The parent sends one request, a child that has inherited the socket another."""
    with socket.create_connection((address, port), timeout=5) as sock:
        try:
            sock.sendall(first)
            said = [answer(sock, len(first))]
        except OSError as exc:
            said = [name_of(exc)]
        pid = os.fork()
        if not pid:
            with contextlib.suppress(OSError):
                sock.sendall(second)
            os._exit(0)
        os.waitpid(pid, 0)
        return [*said, answer(sock, len(second))]


def forges_what_failed(address: str, port: int, allowed: bytes, forbidden: bytes) -> bool:
    """Writes without blocking until one write is taken in part; then goes on with another request in its place.

    True: some write was taken in part.
    """
    with socket.create_connection((address, port), timeout=5) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        sock.setblocking(False)
        for _ in range(20_000):
            try:
                taken = sock.send(allowed)
            except BlockingIOError:
                continue
            except OSError:
                return False
            if taken < len(allowed):
                time.sleep(0.2)
                with contextlib.suppress(OSError):
                    sock.setblocking(True)
                    sock.sendall(forbidden[taken:])
                    answer(sock, 1 << 30, 1.0)
                return True
    return False


def asks(
    address: str, port: int, whole: bytes, then: bytes = b"", *, early: bytes = b"", gap: float = 0.0
) -> list[str]:
    """Of a proxy: the status of its answer, and what becomes of bytes that follow, in two writes if there is a gap;
    `early` go with the question."""
    with socket.create_connection((address, port), timeout=5) as sock:
        try:
            sock.sendall(whole + early)
            status = sock.recv(4096).split(b" ")[1].decode()
        except (OSError, IndexError) as exc:
            return [name_of(exc) if isinstance(exc, OSError) else "closed"]
        if not then:
            return [status]
        try:
            if gap:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.sendall(then[:50])
                time.sleep(gap)
            sock.sendall(then[50:] if gap else then)
        except OSError as exc:
            return [status, name_of(exc)]
        return [status, answer(sock, len(then))]


def keeps_a_tunnel(address: str, port: int, whole: bytes, then: bytes, seconds: float) -> str:
    """Through a proxy, and then silent: how it ends, or "open"."""
    with socket.create_connection((address, port), timeout=5) as sock:
        try:
            sock.sendall(whole)
            sock.recv(4096)
            sock.sendall(then)
            if (said := answer(sock, len(then))) != "ok":
                return said
            if not select.select([sock], [], [], seconds)[0]:
                return "open"
            return "data" if sock.recv(1) else "ended"
        except OSError as exc:
            return name_of(exc)


def keeps_waiting(address: str, port: int, first: bytes, behind: bytes, seconds: float, *, gap: float = 0.3) -> str:
    """A request, and what is written behind it before it is answered as a whole: how it ends, or "open"."""
    with socket.create_connection((address, port), timeout=5) as sock:
        try:
            sock.sendall(first)
            time.sleep(gap)
            if behind:
                sock.sendall(behind)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                if select.select([sock], [], [], 0.1)[0] and not sock.recv(65536):
                    return "ended"
        except OSError as exc:
            return name_of(exc)
    return "open"


def keeps_asking(address: str, port: int, request: bytes, seconds: float, *, silent: bool = False) -> str:
    """One request after the other, or one and then nothing: how it ends, or "open"."""
    return keeps_talking(address, port, request, seconds, silent=silent, ping=request)


def sends_while_the_way_is_cut(address: str, port: int, pieces: tuple[bytes, bytes, bytes], cut: Path) -> str:
    """While the file is there, nothing that is sent arrives: `first` is sent again when it has gone."""
    first, part, rest = pieces
    with socket.create_connection((address, port), timeout=5) as sock:
        try:
            cut.touch()
            time.sleep(0.7)
            sock.sendall(first)
            sock.sendall(part)
            time.sleep(1.0)
            cut.unlink()
            time.sleep(1.5)
            sock.sendall(rest)
        except OSError as exc:
            return name_of(exc)
        return answer(sock, len(first + part + rest), 8.0)
