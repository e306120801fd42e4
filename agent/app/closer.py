"""The closing thread: TCP sockets whose packets are denied end with an error instead of stalling (P10)."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.flows.decode import RawEvent
from agent.kernel import sock_diag
from agent.log import event
from agent.model.verdict import EventKind, Hook, Verdict

_TCP = 6
_SAME_SOCKET_SECONDS = 1.0

FoldersOf = Callable[[int], Iterable[Path]]
"""Cgroup folders in which processes of an endpoint may be, the nearest to a cgroup id first."""


def stalls(record: RawEvent) -> bool:
    """Is this a denial that a TCP socket would wait on? A denied connect() has had its error already."""
    return (
        record.kind is EventKind.DENIED
        and record.verdict is Verdict.DENY
        and record.protocol == _TCP
        and record.hook in (Hook.EGRESS, Hook.INGRESS)
        and record.socket_cookie != 0
    )


class Closer:
    """One thread runs `run`; others put records into `inbox`. None ends it."""

    def __init__(self, folders_of: FoldersOf) -> None:
        self.inbox: queue.SimpleQueue[RawEvent | None] = queue.SimpleQueue()
        self.ended = 0
        self.failed = 0
        self._folders_of = folders_of
        self._recent: dict[int, float] = {}

    def run(self) -> None:
        while (record := self.inbox.get()) is not None:
            now = time.monotonic()
            self._recent = {c: at for c, at in self._recent.items() if now - at < _SAME_SOCKET_SECONDS}
            if record.socket_cookie not in self._recent:
                self._recent[record.socket_cookie] = now
                self._close(record)

    def _close(self, record: RawEvent) -> None:
        for pid in self._processes(record.cgroup_id):
            try:
                with sock_diag.network_of(pid):
                    self.ended += sock_diag.destroy(record.socket_cookie)
            except FileNotFoundError:
                continue  # the process has gone; another one may share its namespace
            except OSError as exc:
                self.failed += 1
                event("socket.not_ended", level=logging.WARNING, cgroup_id=record.cgroup_id, why=str(exc))
            return

    def _processes(self, cgroup_id: int) -> Iterable[int]:
        for folder in self._folders_of(cgroup_id):
            try:
                yield from (int(line) for line in (folder / "cgroup.procs").read_text(encoding="ascii").split())
            except OSError:
                continue  # the folder has gone
