"""The closing thread: TCP connections that are denied end with an error instead of stalling or living on (P10)."""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass

from agent.app.connections import Connections
from agent.flows.decode import RawEvent
from agent.log import event
from agent.model.verdict import DropReason, EventKind, Hook, Verdict

_TCP = 6
_SAME_SOCKET_SECONDS = 1.0
_SAYS_NOTHING = frozenset(
    {DropReason.FRAGMENT, DropReason.SOURCE_ROUTE, DropReason.INVALID_PACKET, DropReason.FOREIGN_SOURCE}
)
"""Reasons that are a packet's own: anybody may send such a one with the addresses and ports of a good connection."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Verdicts of these endpoints were called into question: end whatever is open and denied by now."""

    cgroup_ids: tuple[int, ...]  # one folder of each


def stalls(record: RawEvent) -> bool:
    """Is this a denial that a TCP socket would wait on? A denied connect() has had its error already."""
    return (
        record.kind is EventKind.DENIED
        and record.verdict is Verdict.DENY
        and record.protocol == _TCP
        and record.hook in (Hook.EGRESS, Hook.INGRESS)
        and record.socket_cookie != 0
        and record.reason not in _SAYS_NOTHING
    )


class Closer:
    """One thread runs `run`; others put messages into `inbox`. None ends it."""

    def __init__(self, connections: Connections) -> None:
        self.inbox: queue.SimpleQueue[RawEvent | Sweep | None] = queue.SimpleQueue()
        self.ended = 0
        self.failed = 0
        self._connections = connections
        self._recent: dict[int, float] = {}

    def run(self) -> None:
        while (message := self.inbox.get()) is not None:
            if isinstance(message, Sweep):
                for cgroup_id in message.cgroup_ids:
                    self._sweep(cgroup_id)
                continue
            now = time.monotonic()
            self._recent = {c: at for c, at in self._recent.items() if now - at < _SAME_SOCKET_SECONDS}
            if message.socket_cookie not in self._recent:
                self._recent[message.socket_cookie] = now
                self._close(message)

    def _sweep(self, cgroup_id: int) -> None:
        try:
            self.ended += self._connections.end_denied(cgroup_id)
        except OSError as exc:
            self._tell_failure(cgroup_id, exc)

    def _close(self, record: RawEvent) -> None:
        try:
            self.ended += self._connections.end(record.cgroup_id, record.socket_cookie)
        except OSError as exc:
            self._tell_failure(record.cgroup_id, exc)

    def _tell_failure(self, cgroup_id: int, exc: OSError) -> None:
        self.failed += 1
        event("socket.not_ended", level=logging.WARNING, cgroup_id=cgroup_id, why=str(exc))
