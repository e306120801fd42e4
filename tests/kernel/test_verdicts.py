"""Verdicts of the programs on real packets: connect, egress, ingress, IPv4 and IPv6."""

from __future__ import annotations

import ctypes
import socket
import struct

import pytest

from agent.abi import structs
from agent.model.verdict import Direction, DropReason, EndpointState, EventKind, Hook, Loss, Verdict
from tests.kernel.rig import TCP, UDP, Rig, eventually
from tests.kernel.sockets import tcp, udp, udp_connected

pytestmark = pytest.mark.core
_LIBC = ctypes.CDLL(None, use_errno=True)
V4, V6 = "192.0.2.1", "2001:db8::1"


@pytest.mark.parametrize("address", [V4, V6])
def test_tcp_is_allowed_by_a_rule_and_refused_at_once_without_one(rig: Rig, address: str) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(address, 7001)
    rig.node.serve(address, 7002)
    rig.rule(ruleset, address, TCP, 7001)
    assert pod.run(tcp, address, 7001) == "ok"
    assert pod.run(tcp, address, 7002) == ("EACCES" if rig.datapath.features.set_retval else "EPERM")
    event = rig.event(EventKind.DENIED, slot=slot, hook=Hook.CONNECT, service_port=7002)
    assert event["reason"] == DropReason.NO_RULE
    assert rig.denials(slot) == {DropReason.NO_RULE: 1}


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("send", [udp, udp_connected])
def test_datagrams_are_decided_at_egress(rig: Rig, address: str, send: object) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(address, 7003, socket.SOCK_DGRAM)
    rig.rule(ruleset, address, UDP, 7003)
    assert pod.run(send, address, 7003) == "ok"
    assert pod.run(send, address, 7004) == "EPERM"
    assert rig.denials(slot) == {DropReason.NO_RULE: 1}


def test_v4_mapped_destinations_are_the_ipv4_peer(rig: Rig) -> None:
    pod = rig.node.add_pod()
    _, ruleset = rig.manage(pod)
    rig.node.serve(V4, 7005)
    rig.node.serve(V4, 7006)
    rig.rule(ruleset, V4, TCP, 7005)
    assert pod.run(tcp, f"::ffff:{V4}", 7005) == "ok"
    assert pod.run(tcp, f"::ffff:{V4}", 7006) in ("EACCES", "EPERM")


def test_an_unmanaged_pod_passes_and_a_quarantined_one_does_not(rig: Rig) -> None:
    free, locked = rig.node.add_pod(), rig.node.add_pod()
    rig.manage(free, state=EndpointState.UNMANAGED)
    slot, ruleset = rig.manage(locked, state=EndpointState.QUARANTINED)
    rig.node.serve(V4, 7007)
    rig.rule(ruleset, V4, TCP, 7007)
    assert free.run(tcp, V4, 7007) == "ok"
    assert locked.run(tcp, V4, 7007) in ("EACCES", "EPERM")
    assert rig.denials(slot) == {DropReason.QUARANTINED: 1}


def test_ingress_is_judged_by_our_port(rig: Rig) -> None:
    server, client = rig.node.add_pod(), rig.node.add_pod()
    slot, ruleset = rig.manage(server, egress=Verdict.DENY)
    rig.manage(client, egress=Verdict.ALLOW, ingress=Verdict.ALLOW)
    rig.rule(ruleset, client.ipv4, TCP, 7008, direction=Direction.INGRESS)
    for port in (7008, 7009):
        server.spawn(_serve_tcp, port)
    assert eventually(lambda: client.run(tcp, server.ipv4, 7008) == "ok")
    assert client.run(tcp, server.ipv4, 7009, 0.5) == "TIMEOUT"
    assert rig.denials(slot)[DropReason.NO_RULE] >= 1
    ((key, flow),) = rig.flows(slot)
    assert (key["direction"], key["service_port"], flow["connections"]) == (Direction.INGRESS, 7008, 1)


def test_a_revoked_flow_is_judged_again_at_its_next_packet(rig: Rig) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(V4, 7010, socket.SOCK_DGRAM)
    rig.rule(ruleset, V4, UDP, 7010)
    assert pod.run(udp, V4, 7010) == "ok"
    rig.rule(ruleset, V4, UDP, 7010, verdict=Verdict.DENY, reason=DropReason.DENY_RULE, rule=7)
    rig.bump(slot)
    assert pod.run(udp, V4, 7010) == "EPERM"
    assert rig.event(EventKind.DENIED, slot=slot)["rule"] == 7


def test_audit_passes_and_is_reported_once_a_flow_and_revision(rig: Rig) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(V4, 7011)
    rig.rule(ruleset, V4, TCP, 7011, verdict=Verdict.AUDIT, reason=DropReason.NO_RULE)
    rig.events()
    assert [pod.run(tcp, V4, 7011) for _ in range(3)] == ["ok"] * 3
    audits = [e for e in rig.events() if e["kind"] == EventKind.AUDITED and e["slot"] == slot]
    assert len(audits) == 1
    rig.bump(slot)
    assert pod.run(tcp, V4, 7011) == "ok"
    assert rig.event(EventKind.AUDITED, slot=slot)["reason"] == DropReason.NO_RULE
    assert rig.totals(slot)["connections"] == 4


def audits(rig: Rig, slot: int, direction: Direction) -> tuple[int, int, int]:
    """Exact totals of what passed in audit, by identity and in `denials`, and its connections."""
    totals = rig.totals(slot, direction)
    return totals["audited"], rig.denials(slot)[DropReason.NO_RULE], totals["connections"]


def test_ten_audited_connections_are_ten(rig: Rig) -> None:
    """R2: who sizes the step from audit to enforce reads these totals."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(V4, 7021)
    rig.rule(ruleset, V4, TCP, 7021, verdict=Verdict.AUDIT, reason=DropReason.NO_RULE)
    for _ in range(10):
        assert pod.run(tcp, V4, 7021) == "ok"
    assert audits(rig, slot, Direction.EGRESS) == (10, 10, 10)


def test_ten_audited_connections_that_came_in_are_ten(rig: Rig) -> None:
    pod, client = rig.node.add_pod(), rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.manage(client, egress=Verdict.ALLOW)
    audited = {"direction": Direction.INGRESS, "verdict": Verdict.AUDIT, "reason": DropReason.NO_RULE}
    rig.rule(ruleset, client.ipv4, TCP, 7022, **audited)  # type: ignore[arg-type]
    pod.spawn(_serve_tcp, 7022)
    assert eventually(lambda: client.run(tcp, pod.ipv4, 7022) == "ok")
    before = audits(rig, slot, Direction.INGRESS)
    for _ in range(10):
        assert client.run(tcp, pod.ipv4, 7022) == "ok"
    after = audits(rig, slot, Direction.INGRESS)
    assert [now - was for was, now in zip(before, after, strict=True)] == [10, 10, 10]


def test_loopback_is_never_judged(rig: Rig) -> None:
    pod = rig.node.add_pod()
    slot, _ = rig.manage(pod)
    pod.spawn(_serve_tcp, 7012)
    assert eventually(lambda: pod.run(tcp, "127.0.0.1", 7012) == "ok")
    assert rig.denials(slot) == {}


def test_counts_are_exact(rig: Rig) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(V4, 7013, socket.SOCK_DGRAM)
    rig.rule(ruleset, V4, UDP, 7013)
    pod.run(_send_many, V4, 7013, 5000)
    totals = rig.totals(slot)
    ((_, flow),) = rig.flows(slot)
    assert (totals["sent_packets"], totals["sent_bytes"]) == (5000, 5000 * (100 + 28))
    assert (flow["sent_packets"], flow["sent_bytes"]) == (5000, 5000 * (100 + 28))


def _serve_tcp(port: int) -> None:
    with socket.create_server(("", port)) as server:
        while True:
            connection, _ = server.accept()
            connection.sendall(connection.recv(16))
            connection.close()


def _send_many(address: str, port: int, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((address, port))
        for _ in range(count):
            s.send(b"x" * 100)


class TestAgentLoss:
    """L6: the kernel knows a dead agent by its heartbeat; unknown pods then follow --on-agent-loss."""

    def test_unknown_pods_pass_and_are_counted_or_are_denied_at_once(self, rig: Rig) -> None:
        stranger, managed = rig.node.add_pod(), rig.node.add_pod()
        rig.manage(managed)
        rig.node.serve(V4, 7020)
        assert stranger.run(tcp, V4, 7020, 0.4) == "TIMEOUT"
        try:
            rig.configure(heartbeat_ns=0, loss_grace_ns=1, loss_denies=0)
            passed = rig.losses()[Loss.AGENT_GONE]
            assert stranger.run(tcp, V4, 7020) == "ok"
            assert rig.losses()[Loss.AGENT_GONE] > passed
            assert managed.run(tcp, V4, 7020) in ("EACCES", "EPERM")
            rig.configure(heartbeat_ns=0, loss_grace_ns=1, loss_denies=1)
            assert stranger.run(tcp, V4, 7020) in ("EACCES", "EPERM")
            assert stranger.run(udp, V4, 7021) == "EPERM"
            assert rig.denials(0) == {DropReason.AGENT_GONE: 2}
        finally:
            rig.configure()


def test_without_a_slow_path_managed_endpoints_are_closed_and_unmanaged_ones_open(rig: Rig) -> None:
    free, managed = rig.node.add_pod(), rig.node.add_pod()
    rig.manage(free, state=EndpointState.UNMANAGED)
    slot, ruleset = rig.manage(managed)
    rig.node.serve(V4, 7022, socket.SOCK_DGRAM)
    rig.rule(ruleset, V4, UDP, 7022)
    with rig.without_tails():
        assert managed.run(udp, V4, 7022) == "EPERM"
        assert free.run(udp, V4, 7022) == "ok"
    assert managed.run(udp, V4, 7022) == "ok"
    assert rig.denials(slot) == {DropReason.NOT_READY: 1}


@pytest.mark.parametrize("name", ["peers", "endpoints"])
def test_what_is_written_at_once_is_all_there(rig: Rig, name: str) -> None:
    """LPM tries have no batches before 5.13; a kernel without them leaves the count as it was, and took none."""
    keys = {
        "peers": [structs.PREFIX.pack(length=128, address=b"\x20\x01" + bytes(13) + bytes([n])) for n in range(20)],
        "endpoints": [structs.pack_folder(1 << 40 | n) for n in range(20)],
    }[name]
    table = rig.maps[name]
    value = bytes(range(1, table.spec.value.size + 1))
    for _ in range(2):  # the second time it knows
        table.put_all([(key, value) for key in keys])
        assert {key: table.get(key) for key in keys} == dict.fromkeys(keys, value)
        table.delete_all(keys)
        assert not {key for key, _ in table.items()} & set(keys)


def _count_then_listen(address: str, port: int, children: int) -> None:
    """A socket of a long flow becomes a listener, and accepts connections of the pod to itself."""
    with socket.socket() as sock:
        sock.connect((address, port))
        for _ in range(700):
            sock.sendall(b"x")
            sock.recv(16)
        _LIBC.connect(sock.fileno(), struct.pack("=H14s", socket.AF_UNSPEC, b""), 16)
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        for _ in range(children):
            with socket.create_connection(sock.getsockname()):
                sock.accept()[0].close()


def test_what_a_listener_has_counted_is_not_counted_by_its_children(rig: Rig) -> None:
    """They inherit its storage, and with it counters that are not in its flow yet (R2)."""
    rig.node.serve(V4, 7777)
    counted = []
    for children in (0, 200):
        pod = rig.node.add_pod()
        slot, ruleset = rig.manage(pod)
        rig.rule(ruleset, V4, TCP, 7777)
        pod.run(_count_then_listen, V4, 7777, children)
        assert eventually(lambda slot=slot: rig.totals(slot)["sent_packets"] >= 700)  # type: ignore[misc]
        counted.append(rig.totals(slot)["sent_packets"])
    assert counted[1] == pytest.approx(counted[0], abs=5)
