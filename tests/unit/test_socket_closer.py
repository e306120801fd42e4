"""Which denials end a connection (P10), and whose turn it is to have connections ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address

import pytest

from agent.flows.decode import RawEvent
from agent.kernel.sock_filter import Ends
from agent.model.verdict import Direction, DropReason, EventKind, Hook, Verdict
from agent.node import socket_closer as closer
from agent.node.socket_closer import MOST_STALLED, TURN_SECONDS, SocketCloser, Stalled, Sweep, stalled, stalls

DENIED = RawEvent(
    kind=EventKind.DENIED, hook=Hook.INGRESS, time_ns=1, cgroup_id=2, task_cgroup_id=0, ancestors=(0, 0),
    socket_cookie=3, peer=ip_address("192.0.2.1"), protocol=6, service_port=443, client_port=5000,
    direction=Direction.EGRESS, verdict=Verdict.DENY, reason=DropReason.NO_RULE, rule=0, identity=1, slot=1, pid=0,
    length=60, family=0,
)  # fmt: skip


def test_a_denied_connection_stalls() -> None:
    assert stalls(DENIED)
    assert stalls(replace(DENIED, hook=Hook.EGRESS, reason=DropReason.QUARANTINED))


@pytest.mark.parametrize(
    "reason",
    [DropReason.FRAGMENT, DropReason.SOURCE_ROUTE, DropReason.INVALID_PACKET, DropReason.FOREIGN_SOURCE],
)
def test_a_malformed_packet_ends_no_connection(reason: DropReason) -> None:
    """Anybody may send one with the addresses and ports of a good connection."""
    assert not stalls(replace(DENIED, reason=reason))


@pytest.mark.parametrize(
    "event",
    [
        replace(DENIED, kind=EventKind.AUDITED, verdict=Verdict.AUDIT),
        replace(DENIED, protocol=17),
        replace(DENIED, hook=Hook.CONNECT),
        replace(DENIED, socket_cookie=0),
    ],
)
def test_a_denial_without_a_waiting_tcp_socket_ends_no_connection(event: RawEvent) -> None:
    assert not stalls(event)


def test_the_ends_of_a_connection_are_seen_from_the_pod() -> None:
    peer = IPv6Address("::ffff:192.0.2.1")
    assert stalled(DENIED, 9) == Stalled(9, 3, Ends(5000, peer, 443))
    assert stalled(replace(DENIED, direction=Direction.INGRESS), 9) == Stalled(9, 3, Ends(443, peer, 5000))


# -- turns


@dataclass
class Node:
    """Pods whose work takes steps of 10 ms each; the last piece of work of all ends the thread."""

    steps: dict[int, int]  # by pod: of a sweep
    last: int
    now: float = 0.0
    log: list[tuple[str, int]] = field(default_factory=list)
    looked: list[int] = field(default_factory=list)  # how many connections each look was for
    errors: dict[int, int] = field(default_factory=dict)  # by pod: sweeps that fail yet
    during: list[Sweep] = field(default_factory=list)  # comes while a sweep is under way

    def __post_init__(self) -> None:
        self.closer = SocketCloser(self, lambda: self.now)

    def ending_denied(self, cgroup_id: int) -> Iterator[int]:
        for _ in range(self.steps[cgroup_id]):
            self.now += 0.01
            if self.during:
                self.closer.inbox.put(self.during.pop())
            yield 0
        if self.errors.get(cgroup_id, 0):
            self.errors[cgroup_id] -= 1
            raise OSError("no memory")
        yield 1
        self._done("sweep", cgroup_id)

    def ending(self, cgroup_id: int, stalled: Mapping[int, Ends]) -> Iterator[int]:
        self.now += 0.01
        self.looked.append(len(stalled))
        yield len(stalled)
        self._done("stalled", cgroup_id)

    def run(self, *messages: Sweep | Stalled) -> None:
        for message in messages:
            self.closer.inbox.put(message)
        self.closer.run()

    def _done(self, what: str, cgroup_id: int) -> None:
        self.log.append((what, cgroup_id))
        if self.log.count((what, cgroup_id)) > 100:
            raise AssertionError("no end")
        if cgroup_id == self.last:
            self.closer.inbox.put(None)


def denied(cgroup_id: int, cookie: int) -> Stalled:
    return Stalled(cgroup_id, cookie, Ends(cookie, IPv6Address("2001:db8::1"), 443))


def test_a_pod_with_very_much_work_delays_others_by_its_turn() -> None:
    """One FIFO for all would do the first pod's 1,000 steps first."""
    node = Node({1: 1000, 2: 1}, last=2)
    node.run(*(denied(1, n) for n in range(9)), Sweep((1, 2)))
    assert node.log == [("sweep", 2)]
    assert node.now < 2 * TURN_SECONDS + 0.02


def test_denials_of_one_pod_are_looked_for_at_once_and_bounded() -> None:
    node = Node({}, last=1)
    node.run(*(denied(1, n) for n in range(MOST_STALLED + 5)), denied(1, 0))
    assert node.looked == [MOST_STALLED]
    assert node.closer.ended == MOST_STALLED
    assert node.closer.lost() == {"stalls_unended": 5, "sockets_not_ended": 0}


def test_a_sweep_comes_before_denials_and_again_if_asked_for_meanwhile() -> None:
    """What it has judged before may be denied by now."""
    node = Node({1: 1}, last=2, during=[Sweep((1,))])
    node.steps[2] = 10
    node.run(denied(1, 5), Sweep((1, 2)))
    assert node.log == [("sweep", 1), ("stalled", 1), ("sweep", 1), ("sweep", 2)]


def test_a_sweep_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closer, "AGAIN_SECONDS", 0.01)
    node = Node({1: 0}, last=1, errors={1: 2})
    node.closer = SocketCloser(node)
    node.run(Sweep((1,)))
    assert node.log == [("sweep", 1)]
    assert node.closer.ended == 1
    assert node.closer.lost() == {"stalls_unended": 0, "sockets_not_ended": 2}
