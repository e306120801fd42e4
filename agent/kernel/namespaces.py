"""Network namespaces of processes, and the TCP sockets in one: listed and ended from outside, in parts."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from agent.kernel import sock_diag
from agent.kernel.sock_diag import TcpSocket

MOST = 64
"""Namespaces of one pod that are kept: those that it was given before those that its processes made."""
_PART = 256
_NS_GET_USERNS, _NS_GET_PARENT = 0xB701, 0xB702
_GONE = (errno.ENOENT, errno.ESRCH)


@dataclass(frozen=True, slots=True)
class Namespace:
    """`inode` is its identity; `depth`: of the user namespace that owns it, 0 for the first one's."""

    fd: int
    inode: int
    depth: int

    def sockets(self) -> Sockets:
        return Sockets(self.fd)


class Namespaces:
    """Distinct ones, open until `close`.

    Who may not do so in the pod's user namespace makes a network namespace of his own in a user namespace of his own,
    one level deeper: so that the pod's own one comes first, as long as one process of the pod is in it.
    """

    def __init__(self) -> None:
        self.found: list[Namespace] = []
        self._seen: set[int] = set()

    def look(self, pids: Iterable[int]) -> Iterator[None]:
        """Into all of these processes, some at a time. Raises OSError where one may not be looked at."""
        for number, pid in enumerate(pids, 1):
            self._take(pid)
            if number % _PART == 0:
                yield

    def close(self) -> None:
        while self.found:
            os.close(self.found.pop().fd)

    def _take(self, pid: int) -> None:
        path = f"/proc/{pid}/ns/net"
        try:
            inode = os.stat(path).st_ino
            if inode in self._seen:
                return
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in _GONE:
                return
            raise
        self._seen.add(inode)
        try:
            self.found.append(Namespace(fd, inode, _depth(fd)))
        except OSError:
            os.close(fd)
            raise
        self.found.sort(key=lambda each: each.depth)
        if len(self.found) > MOST:
            os.close(self.found.pop().fd)


class Sockets:
    """TCP sockets of one namespace, from whatever namespace the calling thread is in. One thread at a time."""

    def __init__(self, namespace: int) -> None:
        with sock_diag.inside(namespace):
            self._lists, self._ends = sock_diag.netlink(), sock_diag.netlink()

    def close(self) -> None:
        self._lists.close()
        self._ends.close()

    def listening(self) -> Iterator[list[TcpSocket]]:
        """In parts; a listing that is begun must be read to its end, or closed with the sockets."""
        return self._listed(sock_diag.LISTENING)

    def connections(self, only: bytes = b"", storages: Sequence[int] = ()) -> Iterator[list[TcpSocket]]:
        """Those that have a peer, in parts. `only`, `storages`: as in agent.kernel.sock_diag."""
        return self._listed(sock_diag.OPEN, only, storages)

    def end(self, sockets: Iterable[TcpSocket]) -> int:
        """How many were still there."""
        return sum(sock_diag.end(self._ends, each) for each in sockets)

    def _listed(self, states: int, only: bytes = b"", storages: Sequence[int] = ()) -> Iterator[list[TcpSocket]]:
        for family in (socket.AF_INET, socket.AF_INET6):
            listed = iter(sock_diag.listed(self._lists, family, states, only, storages))
            while part := list(islice(listed, _PART)):
                yield part


def own_inode() -> int:
    """Of the namespace that the calling thread is in."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def _depth(namespace: int) -> int:
    """Of the owning user namespace, counted from that of this agent or what it may see."""
    depth = 0
    with contextlib.ExitStack() as stack:
        at = _related(stack, namespace, _NS_GET_USERNS)
        while at >= 0:
            at = _related(stack, at, _NS_GET_PARENT)
            depth += at >= 0
    return depth


def _related(stack: contextlib.ExitStack, namespace: int, how: int) -> int:
    """A descriptor of it; -1 where there is none, or it is out of sight."""
    try:
        found = fcntl.ioctl(namespace, how)
    except OSError as exc:
        if exc.errno == errno.EPERM:
            return -1
        raise
    stack.callback(os.close, found)
    return found
