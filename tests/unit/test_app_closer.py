"""Which denials end a connection: those that say something about it, not about one packet (P10)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent.app.closer import stalls
from agent.flows.decode import RawEvent
from agent.model.verdict import Direction, DropReason, EventKind, Hook, Verdict

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
def test_a_packet_that_is_broken_by_itself_ends_nothing(reason: DropReason) -> None:
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
def test_what_no_connection_waits_on_ends_nothing(event: RawEvent) -> None:
    assert not stalls(event)
