"""Packed records of the kernel as values."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.abi.structs import DENIAL, DENIAL_KEY, EVENT, FLOW, FLOW_KEY, IDENTITY_COUNTS, pack_address
from agent.flows.decode import (
    TOTALS_WORDS,
    IdentityCounts,
    decode_denials,
    decode_event,
    decode_flow,
    decode_totals,
)
from agent.model.flow import FlowCounts
from agent.model.verdict import Direction, DropReason, EventKind, Hook, Verdict

KEY = FLOW_KEY.pack(
    cgroup_id=4711, peer=pack_address(ip_address("192.0.2.9")), service_port=443, protocol=6, direction=1,
    client_port=0, pad=b"\0\0",
)  # fmt: skip
VALUE = FLOW.pack(
    slot=3, stamp=9, identity=1 << 24, rule=7, last=200, first=100, verdict=2, reason=1, pad=b"\0" * 6,
    sent_packets=1, sent_bytes=2, received_packets=3, received_bytes=4, connections=5,
)  # fmt: skip


def test_a_flow() -> None:
    got = decode_flow(KEY, VALUE)
    assert got.tuple.peer == ip_address("192.0.2.9")  # mapped in the kernel, IPv4 for people
    assert (got.tuple.service_port, got.tuple.protocol, got.tuple.direction) == (443, 6, Direction.INGRESS)
    assert (got.cgroup_id, got.slot, got.identity, got.rule) == (4711, 3, 1 << 24, 7)
    assert (got.verdict, got.reason, got.first, got.last) == (Verdict.AUDIT, DropReason.NO_RULE, 100, 200)
    assert got.counts == FlowCounts(1, 2, 3, 4, 5)


def test_an_event() -> None:
    got = decode_event(
        EVENT.pack(
            time_ns=1, cgroup_id=2, task_cgroup_id=3, ancestors=(4, 5), socket_cookie=6,
            peer=pack_address(ip_address("2001:db8::1")), service_port=53, client_port=4000, protocol=17, direction=0,
            verdict=0, reason=2, rule=7, identity=8, slot=9, pid=10, length=11, kind=1, hook=2, family=12, pad=b"\0",
        )
    )  # fmt: skip
    assert (got.kind, got.family) == (EventKind.DENIED, 12)
    assert (got.kind, got.hook, got.verdict) == (EventKind.DENIED, Hook.CONNECT, Verdict.DENY)
    assert (got.peer, got.service_port, got.client_port) == (ip_address("2001:db8::1"), 53, 4000)
    assert (got.reason, got.ancestors, got.socket_cookie) == (DropReason.DENY_RULE, (4, 5), 6)


def test_a_number_of_another_version_is_no_silent_zero() -> None:
    value = FLOW.pack(**FLOW.unpack(VALUE) | {"verdict": 200})
    with pytest.raises(ValueError, match="200 is not a valid Verdict"):
        decode_flow(KEY, value)


def test_exact_denials() -> None:
    key = DENIAL_KEY.pack(slot=1, rule=2, identity=3, reason=1, direction=1, verdict=0, pad=0)
    got = decode_denials(key, DENIAL.pack(packets=5, bytes=600))
    assert (got.slot, got.rule, got.identity, got.packets, got.bytes) == (1, 2, 3, 5, 600)
    assert (got.reason, got.direction, got.verdict) == (DropReason.NO_RULE, Direction.INGRESS, Verdict.DENY)


def test_totals_of_both_directions() -> None:
    width = len(IDENTITY_COUNTS.fields)
    assert 2 * width == TOTALS_WORDS
    got = decode_totals(tuple(range(1, 2 * width + 1)))
    assert got[Direction.EGRESS] == IdentityCounts(1, 2, 3, 4, 5, 6, 7, 8)
    assert got[Direction.INGRESS] == IdentityCounts(9, 10, 11, 12, 13, 14, 15, 16)


def test_a_newer_release_s_reasons_and_hooks_can_be_read() -> None:
    """After a rollback the ring buffer and `denials` may hold them: they are no reason to end."""
    got = decode_event(EVENT.pack(kind=1, hook=77, reason=78))
    assert (got.hook, got.reason, got.hook.has_peer) == (Hook.UNKNOWN, DropReason.UNKNOWN, True)
    assert decode_denials(DENIAL_KEY.pack(reason=78), DENIAL.pack(packets=1)).reason is DropReason.UNKNOWN
