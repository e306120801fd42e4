"""The closing thread: TCP connections that are denied end with an error instead of stalling or living on (P10)."""

from __future__ import annotations

import errno
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Protocol

from agent.abi.structs import pack_address
from agent.flows.decode import RawEvent
from agent.kernel.sock_filter import Ends
from agent.log import event
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction, DropReason, EventKind, Hook, Verdict
from agent.not_understood import NotUnderstood

MOST_STALLED = 64
"""Denied connections of one pod that wait to be ended; of others the kernel tells again when they send again."""
TURN_SECONDS = 0.02
"""A pod whose work takes longer goes on after the others have had their turn."""
AGAIN_SECONDS = 1.0
MOST_TRIES = 10
_SAYS_NOTHING = frozenset(
    {DropReason.FRAGMENT, DropReason.SOURCE_ROUTE, DropReason.INVALID_PACKET, DropReason.FOREIGN_SOURCE}
)
"""Reasons that are a packet's own: anybody may send such a one with the addresses and ports of a good connection."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Verdicts of these endpoints were called into question: end whatever is open and denied by now."""

    cgroup_ids: tuple[int, ...]  # one folder of each


@dataclass(frozen=True, slots=True)
class Stalled:
    """A denied connection of an endpoint."""

    cgroup_id: int  # a folder of the endpoint, the same for all that it sends
    cookie: int
    ends: Ends


def stalls(record: RawEvent) -> bool:
    """Is this a denial that a TCP socket would wait on? A denied connect() has had its error already."""
    return (
        record.kind is EventKind.DENIED
        and record.verdict is Verdict.DENY
        and record.protocol == IpProtocol.TCP
        and record.hook in (Hook.EGRESS, Hook.INGRESS)
        and record.socket_cookie != 0
        and record.reason not in _SAYS_NOTHING
    )


def stalled(record: RawEvent, cgroup_id: int) -> Stalled:
    """`cgroup_id`: a folder of the endpoint. The record has that of the socket, which may be any folder below."""
    near, far = record.client_port, record.service_port
    if record.direction is Direction.INGRESS:
        near, far = far, near
    return Stalled(cgroup_id, record.socket_cookie, Ends(near, IPv6Address(pack_address(record.peer)), far))


class Work(Protocol):
    """What can be done to connections; each step yields how many it has ended."""

    def ending_denied(self, cgroup_id: int) -> Iterator[int]: ...
    def ending(self, cgroup_id: int, stalled: Mapping[int, Ends]) -> Iterator[int]: ...


@dataclass(slots=True)
class _Pod:
    """What is to be done for one pod, and what is being done."""

    sweep: bool = False
    stalled: dict[int, Ends] = field(default_factory=dict)
    running: Iterator[int] | None = None
    sweeping: bool = False
    tries: int = 0


class SocketCloser:
    """One thread runs `run`; others put messages into `inbox`. None ends it.

    Pods have turns, one after the other, so that one with very many sockets or denials keeps only itself waiting.
    """

    def __init__(self, connections: Work, clock: Callable[[], float] = time.monotonic) -> None:
        self.inbox: queue.SimpleQueue[Sweep | Stalled | None] = queue.SimpleQueue()
        self.ended = 0
        self.failed = 0
        self.left_out = 0
        self._connections, self._clock = connections, clock
        self._broken = NotUnderstood("sockets", clock)
        self._pods: dict[int, _Pod] = {}
        self._turns: deque[int] = deque()
        self._again: deque[tuple[float, int, int]] = deque()  # when, which pod, how often it was tried

    def lost(self) -> dict[str, int]:
        """Denied connections that were not looked for, and work that failed, by reason. Any thread."""
        return {"stalls_unended": self.left_out, "sockets_not_ended": self.failed}

    def run(self) -> None:
        while self._read():
            if self._turns:
                self._turn(self._turns.popleft())
        for pod in self._pods.values():
            if pod.running is not None:
                pod.running = None  # closes its sockets

    def _read(self) -> bool:
        """All messages; waits for one where there is nothing to do. False: the end."""
        due = self._again[0][0] - self._clock() if self._again else None
        wait = 0.0 if self._turns else due
        for _ in range(max(1, self.inbox.qsize())):
            try:
                message = self.inbox.get(timeout=max(0.0, wait) if wait is not None else None)
            except queue.Empty:
                break
            if message is None:
                return False
            self._take(message)
            wait = 0.0
        while self._again and self._again[0][0] <= self._clock():
            _, cgroup_id, tries = self._again.popleft()
            self._question(cgroup_id, tries)
        return True

    def _take(self, message: Sweep | Stalled) -> None:
        if isinstance(message, Sweep):
            for cgroup_id in message.cgroup_ids:
                self._question(cgroup_id, 0)
            return
        pod = self._waiting(message.cgroup_id)
        if len(pod.stalled) < MOST_STALLED or message.cookie in pod.stalled:
            pod.stalled[message.cookie] = message.ends
        else:
            self.left_out += 1

    def _question(self, cgroup_id: int, tries: int) -> None:
        pod = self._waiting(cgroup_id)
        pod.sweep, pod.tries = True, tries

    def _waiting(self, cgroup_id: int) -> _Pod:
        pod = self._pods.get(cgroup_id)
        if pod is None:
            pod = self._pods[cgroup_id] = _Pod()
            self._turns.append(cgroup_id)
        return pod

    def _turn(self, cgroup_id: int) -> None:
        """As much of one pod's work as fits into a turn."""
        pod, end = self._pods[cgroup_id], self._clock() + TURN_SECONDS
        try:
            while self._begin(cgroup_id, pod) and self._clock() < end:
                self._step(pod)
        except OSError as exc:
            self._fail(cgroup_id, pod, exc)
        except Exception as exc:  # noqa: BLE001  what a pod's sockets and processes show is the pod's to choose
            self._broken.note(exc)
            self._fail(cgroup_id, pod, OSError(errno.EOPNOTSUPP, repr(exc)[:200]))
        if pod.running is not None or pod.sweep or pod.stalled:
            self._turns.append(cgroup_id)
        else:
            del self._pods[cgroup_id]

    def _begin(self, cgroup_id: int, pod: _Pod) -> bool:
        """A sweep goes first: it may end what has stalled, too. False: nothing is left."""
        if pod.running is not None:
            return True
        pod.sweeping = pod.sweep
        if pod.sweep:
            pod.sweep, pod.running = False, self._connections.ending_denied(cgroup_id)
        elif pod.stalled:
            pod.running, pod.stalled = self._connections.ending(cgroup_id, pod.stalled), {}
        return pod.running is not None

    def _step(self, pod: _Pod) -> None:
        ended = next(pod.running, None) if pod.running is not None else None
        self.ended += ended or 0
        if ended is None:
            pod.running = None

    def _fail(self, cgroup_id: int, pod: _Pod, exc: OSError) -> None:
        """A sweep is tried again, unless the kernel cannot; a stalled connection comes again when it sends again."""
        self.failed += 1
        pod.running = None
        event("socket.not_ended", level=logging.WARNING, cgroup_id=cgroup_id, why=str(exc))
        if pod.sweeping and not pod.sweep and pod.tries < MOST_TRIES and exc.errno != errno.EOPNOTSUPP:
            self._again.append((self._clock() + AGAIN_SECONDS, cgroup_id, pod.tries + 1))
