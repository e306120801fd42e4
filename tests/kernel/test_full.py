"""Maps that are too small, rings that overrun, sockets that end without a word: verdicts stand, and what could not be
counted in its place is counted as lost, to the packet."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.abi.structs import FLOW
from agent.model.verdict import DropReason, EventKind, Loss, Verdict
from lab.node import in_netns
from tests.kernel.rig import TCP, UDP, Rig, attached, eventually
from tests.kernel.sockets import tcp, udp

V4 = "192.0.2.91"
REFUSED = ("EACCES", "EPERM")
LONG = 20_000


def lost(rig: Rig, before: dict[Loss, int]) -> dict[Loss, int]:
    """What was lost since, without zeros."""
    return {loss: count - before[loss] for loss, count in rig.losses().items() if count != before[loss]}


def test_a_full_flow_map_still_decides_and_counts() -> None:
    with attached(flows=64) as rig:
        scanner, other = rig.node.add_pod(), rig.node.add_pod()
        rig.node.add_addresses(V4)
        rig.node.serve(V4, 8411)
        slot, scanned = rig.manage(scanner, egress=Verdict.ALLOW)
        rig.rule(scanned, V4, UDP, 9000, verdict=Verdict.DENY, reason=DropReason.DENY_RULE)
        other_slot, ruleset = rig.manage(other)
        rig.rule(ruleset, V4, TCP, 8411)
        before = rig.losses()
        assert scanner.run(_scan, V4, 10_000, 500) == 500
        assert scanner.run(_scan, V4, 9000, 1) == 0  # denied
        held = len(rig.flows(slot))
        assert held <= 64
        assert lost(rig, before) == {Loss.FLOWS_FULL: 500 - held}
        assert rig.totals(slot)["sent_packets"] == 500
        assert rig.denials(slot) == {DropReason.DENY_RULE: 1}
        assert other.run(tcp, V4, 8411) == "ok"
        assert other.run(tcp, V4, 8412) in REFUSED
        assert rig.denials(other_slot) == {DropReason.NO_RULE: 1}


def test_one_pods_quota_is_its_own(rig: Rig) -> None:
    scanner, other = rig.node.add_pod(), rig.node.add_pod()
    rig.node.add_addresses(V4)
    rig.node.serve(V4, 8413, socket.SOCK_DGRAM)
    slot, _ = rig.manage(scanner, egress=Verdict.ALLOW)
    other_slot, ruleset = rig.manage(other)
    rig.rule(ruleset, V4, UDP, 8413)
    before = rig.losses()
    rig.configure(flow_quota=16)
    try:
        assert scanner.run(_scan, V4, 10_000, 200) == 200
        assert len(rig.flows(slot)) == 16
        assert lost(rig, before) == {Loss.FLOWS_QUOTA: 184}
        assert rig.totals(slot)["sent_packets"] == 200
        assert other.run(udp, V4, 8413) == "ok"
        assert len(rig.flows(other_slot)) == 1
    finally:
        rig.configure()


def test_a_ring_that_overruns_loses_events_and_neither_verdicts_nor_counts() -> None:
    with attached(events=4096) as rig:
        pod = rig.node.add_pod()
        rig.node.add_addresses(V4)
        slot, _ = rig.manage(pod)
        rig.configure(event_rate=100_000, event_burst=100_000)
        rig.events()
        before = rig.losses()
        assert pod.run(_scan, V4, 10_000, 500) == 0
        delivered = [e for e in rig.events() if e["kind"] == EventKind.DENIED and e["slot"] == slot]
        missing = lost(rig, before)
        assert set(missing) == {Loss.RING_FULL}
        assert 0 < len(delivered) < 500
        assert len(delivered) + missing[Loss.RING_FULL] == 500
        assert rig.denials(slot) == {DropReason.NO_RULE: 500}
        assert rig.totals(slot)["denied_packets"] == 500
        assert pod.run(_scan, V4, 20_000, 3) == 0
        assert len(rig.events()) == 3


def test_events_beyond_the_rate_are_counted_as_lost(rig: Rig) -> None:
    pod = rig.node.add_pod()
    rig.node.add_addresses(V4)
    slot, _ = rig.manage(pod)
    rig.configure(event_rate=1, event_burst=5)
    try:
        rig.events()
        before = rig.losses()
        assert pod.run(_scan, V4, 10_000, 200) == 0
        delivered = [e for e in rig.events() if e["kind"] == EventKind.DENIED and e["slot"] == slot]
        assert len(delivered) + lost(rig, before)[Loss.EVENT_RATE] == 200
        assert 5 <= len(delivered) < 100
        assert rig.denials(slot) == {DropReason.NO_RULE: 200}
    finally:
        rig.configure()


def test_full_maps_of_denials_and_of_questions_are_counted() -> None:
    with attached(denials=8, pending=4) as rig:
        pod = rig.node.add_pod()
        rig.node.add_addresses(V4)
        slot, ruleset = rig.manage(pod)
        for n in range(100):
            rig.rule(ruleset, V4, UDP, 11_000 + n, verdict=Verdict.DENY, reason=DropReason.DENY_RULE, rule=n + 1)
        before = rig.losses()
        assert pod.run(_scan, V4, 11_000, 100) == 0
        counted = sum(rig.denials(slot).values())
        assert counted + lost(rig, before)[Loss.DENIALS_FULL] == 100
        assert rig.totals(slot)["denied_packets"] == 100
        before = rig.losses()
        strangers = [rig.node.add_pod() for _ in range(12)]
        assert [each.run(udp, V4, 9, 0.05) for each in strangers] == ["TIMEOUT"] * 12
        assert len(rig.maps["pending"].keys()) + lost(rig, before)[Loss.PENDING_FULL] >= 12


class TestPromotedSockets:
    """A long flow is counted in its socket; nothing of it is lost however the socket ends."""

    def test_a_connected_datagram_socket(self, rig: Rig) -> None:
        pod = rig.node.add_pod()
        slot, ruleset = rig.manage(pod)
        rig.node.add_addresses(V4)
        rig.rule(ruleset, V4, UDP, 8421)
        before = rig.losses()
        sink = _sink(rig, 8421)
        with sink:
            pod.run(_send_many, V4, 8421, LONG, timeout=60)
        (flow,) = [f for _, f in rig.flows(slot)]
        totals = rig.totals(slot)
        expected = (LONG, LONG * (100 + 28), 1)
        assert (flow["sent_packets"], flow["sent_bytes"], flow["connections"]) == expected
        assert (totals["sent_packets"], totals["sent_bytes"], totals["connections"]) == expected
        assert lost(rig, before) == {}

    @pytest.mark.parametrize("ending", ["fin", "reset", "killed"])
    def test_a_tcp_connection(self, rig: Rig, ending: str) -> None:
        pod = rig.node.add_pod()
        slot, ruleset = rig.manage(pod)
        port = {"fin": 8422, "reset": 8423, "killed": 8424}[ending]
        server = rig.node.serve(V4, port)
        rig.rule(ruleset, V4, TCP, port)
        before = rig.losses()
        if ending == "killed":
            reader, writer = os.pipe()
            pid = pod.spawn(_ask_many, V4, port, LONG // 10, ending, writer)
            assert os.read(reader, 1) == b"x"
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pod.children.remove(pid)
            os.close(reader)
            os.close(writer)
        else:
            pod.run(_ask_many, V4, port, LONG // 10, ending, -1, timeout=60)
        assert len(server.received) == LONG // 10
        assert eventually(lambda: _agree(rig, slot)), (rig.flows(slot), rig.totals(slot))
        (flow,) = [f for _, f in rig.flows(slot)]
        assert flow["sent_packets"] >= LONG // 10
        assert flow["received_packets"] >= LONG // 10
        assert lost(rig, before) == {}

    def test_a_flow_that_was_evicted_under_its_socket(self, rig: Rig) -> None:
        """What the socket still holds goes into the flow that its next packet makes, or is counted as missed."""
        pod = rig.node.add_pod()
        slot, ruleset = rig.manage(pod)
        rig.node.add_addresses(V4)
        rig.rule(ruleset, V4, UDP, 8425)
        before = rig.losses()
        with _sink(rig, 8425):
            ours, theirs = socket.socketpair()
            pid = pod.spawn(_send_in_two_halves, V4, 8425, 5000, theirs)
            assert ours.recv(1) == b"x"
            evicted = sum(_take(rig, key, slot) for key in rig.maps["flows"].keys())  # noqa: SIM118
            ours.send(b"x")
            os.waitpid(pid, 0)
            pod.children.remove(pid)
        in_flow = sum(f["sent_packets"] for _, f in rig.flows(slot))
        missed = lost(rig, before).get(Loss.FLUSH_MISS, 0)
        assert evicted + in_flow + missed == 10_000
        assert rig.totals(slot)["sent_packets"] == 10_000


def _take(rig: Rig, key: bytes, slot: int) -> int:
    """Evict this entry if it is the slot's; the packets that it had."""
    value = rig.maps["flows"].get(key)
    if value is None or FLOW.unpack(value)["slot"] != slot:
        return 0
    rig.maps["flows"].delete(key)
    return int(FLOW.unpack(value)["sent_packets"])


def _agree(rig: Rig, slot: int) -> bool:
    """Do the flow and the identity's totals tell the same?"""
    flows, totals = rig.flows(slot), rig.totals(slot)
    names = ("sent_packets", "sent_bytes", "received_packets", "received_bytes", "connections")
    return len(flows) == 1 and all(flows[0][1][name] == totals[name] for name in names)


@contextmanager
def _sink(rig: Rig, port: int) -> Iterator[None]:
    """A socket in the world that takes datagrams and answers nothing."""
    with in_netns(rig.node.world):
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink:
        sink.bind((V4, port))
        yield


def _scan(address: str, port: int, count: int) -> int:
    """One datagram to each of `count` ports; how many were sent."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_IP, 11, 0)  # IP_RECVERR off: an ICMP answer is no error of the next send
        for n in range(count):
            try:
                sock.sendto(b"x", (address, port + n))
            except PermissionError:
                continue
            sent += 1
    return sent


def _send_many(address: str, port: int, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        for _ in range(count):
            sock.send(b"x" * 100)


def _send_in_two_halves(address: str, port: int, half: int, parent: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        for _ in range(half):
            sock.send(b"x" * 100)
        parent.send(b"x")
        parent.recv(1)
        for _ in range(half):
            sock.send(b"x" * 100)


def _ask_many(address: str, port: int, count: int, ending: str, ready: int) -> None:
    sock = socket.create_connection((address, port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(count):
        sock.sendall(b"ping")
        if sock.recv(16) != b"ping":
            raise AssertionError("no echo")
    if ending == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    if ending == "killed":
        os.write(ready, b"x")
        signal.pause()
    sock.close()
