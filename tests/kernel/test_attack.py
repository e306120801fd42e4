"""What a hostile task, peer or writer tried: floods, stalls, values that are rewritten under a running program.

ATTACK_SECONDS, ATTACK_ROUNDS: how long the races run; `make attack` runs them for minutes.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from agent.abi import structs
from agent.flows.decode import decode_event
from agent.model.verdict import Direction, DropReason, EndpointState, Verdict
from agent.node.socket_closer import stalls
from lab.node import Pod, in_netns, ip
from tests.kernel.rig import TCP, UDP, Rig, attached, eventually
from tests.kernel.sockets import attempt, checksum, udp

_NEW_NETWORK = 0x40000000
SECONDS = float(os.environ.get("ATTACK_SECONDS", "2"))
ROUNDS = int(os.environ.get("ATTACK_ROUNDS", "40"))
V4, V6 = "192.0.2.70", "2001:db8::70"
REFUSED = ("EACCES", "EPERM")
LOOPBACK_OPTIONS = {
    "SO_BINDTODEVICE": (socket.SOL_SOCKET, 25, b"eth0\0"),
    "IP_UNICAST_IF": (socket.IPPROTO_IP, 50, None),
}


def _own_values(rig: Rig, pod: Pod) -> None:
    """Give the endpoint's entries the pod's addresses, as the writer does."""
    for folder in (pod.folder, pod.container):
        key = structs.pack_folder(folder.stat().st_ino)
        fields = dict(structs.ENDPOINT.unpack(rig.maps["endpoints"].get(key) or b""))
        own = structs.pack_address(socket_address(pod.ipv4)) + structs.pack_address(socket_address(pod.ipv6))
        rig.maps["endpoints"].put(key, structs.ENDPOINT.pack(**fields | {"own": own}))


def socket_address(text: str) -> int:
    return int(IPv6Address(text)) if ":" in text else int(IPv6Address(f"::ffff:{text}"))


# -- races


@pytest.mark.core
def test_a_value_that_is_rewritten_is_never_read_as_another_endpoints(rig: Rig) -> None:
    """Only rewritten, never changed: the one that is denied in every revision sends nothing."""
    denied, allowed = rig.node.add_pod(), rig.node.add_pod()
    slot, _ = rig.manage(denied)
    rig.manage(allowed, egress=Verdict.ALLOW, ingress=Verdict.ALLOW)
    keys = [structs.pack_folder(f.stat().st_ino) for p in (denied, allowed) for f in (p.folder, p.container)]
    values = [(key, rig.maps["endpoints"].get(key) or b"") for key in keys]
    for pod in (denied, allowed):
        pod.spawn(_send_for_ever, V4, 7400)
    deadline, writes = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline:
        rig.maps["endpoints"].put_all(values * 16)
        writes += len(values) * 16
    assert writes > 1000
    assert eventually(lambda: rig.denials(slot).get(DropReason.NO_RULE, 0) > 1000)
    assert rig.totals(slot)["sent_packets"] == 0
    assert rig.flows(slot) == []


def test_what_is_revoked_while_the_sender_stalls_its_own_processor_stays_revoked(rig: Rig) -> None:
    """2,000 timers that end in one interrupt stall whatever program runs on that processor."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    pod.spawn(_stall_for_ever)
    survived = []
    for round_ in range(ROUNDS):
        address = f"203.0.113.{round_ % 200 + 1}"
        rig.rule(ruleset, address, UDP, 7401)
        sender = pod.spawn(_send_for_ever, address, 7401)
        assert eventually(lambda: bool(rig.flows(slot))), "the sender never got through"
        time.sleep(0.01)
        _revoke(rig, slot, ruleset, address)
        time.sleep(0.05)
        if _current(rig, slot) or _goes_on(rig, slot):
            survived.append(round_)
        os.kill(sender, 9)
    assert not survived, f"{len(survived)} of {ROUNDS} flows went on"


def _revoke(rig: Rig, slot: int, ruleset: int, address: str) -> None:
    """Rows first, the epoch last: as agent/sync writes it."""
    for key in rig.maps["rules"].keys():  # noqa: SIM118
        if structs.RULE_KEY.unpack(key)["ruleset"] == ruleset:
            rig.maps["rules"].delete(key)
    rig.bump(slot)


def _current(rig: Rig, slot: int) -> bool:
    """Is any verdict that was remembered still good?"""
    epoch = structs.EPOCH.unpack(rig.maps["epochs"].get(structs.U32.pack(value=slot)) or b"")["epoch"]
    return any(flow["stamp"] & 0xFFFFFFFF == epoch for _, flow in rig.flows(slot))


def _goes_on(rig: Rig, slot: int) -> bool:
    """Does the sender, which never rests? A program that stalled with its verdict may count one packet late."""
    counts = []
    for _ in range(20):
        counts.append(_sent(rig, slot))
        time.sleep(0.02)
    return len(set(counts[5:])) > 2


def _sent(rig: Rig, slot: int) -> int:
    return int(rig.totals(slot)["sent_packets"])


# -- shares


@pytest.fixture
def small(rig: Rig) -> Iterator[Rig]:
    """Endpoints have small shares of `flows` meanwhile."""
    rig.configure(flow_quota=64)
    yield rig
    rig.configure()


@pytest.mark.core
def test_what_others_open_takes_nothing_of_what_a_pod_opens(small: Rig) -> None:
    victim = small.node.add_pod()
    slot, ruleset = small.manage(victim)
    small.node.serve(V4, 7410, socket.SOCK_DGRAM)
    small.rule(ruleset, V4, UDP, 7410)
    small.rule(ruleset, V4, UDP, 8125, direction=Direction.INGRESS)
    victim.spawn(_swallow, 8125)
    assert eventually(lambda: _flooded(small, victim, 8125) and len(small.flows(slot)) >= 64)
    assert [victim.run(udp, V4, 7410) for _ in range(5)] == ["ok"] * 5


def _flooded(rig: Rig, victim: Pod, port: int) -> bool:
    """A datagram from each of 100 ports."""
    with in_netns(rig.node.world):
        for _ in range(100):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((V4, 0))
                sock.sendto(b"counter:1|c", (victim.ipv4, port))
    return True


@pytest.mark.core
def test_a_peer_that_asks_without_end_takes_no_answer_of_another(small: Rig) -> None:
    """The share of what others open is full; a question of each peer waits while one sends from 500 ports."""
    pod = small.node.add_pod()
    slot, ruleset = small.manage(pod)
    small.rule(ruleset, V4, UDP, 8125, direction=Direction.INGRESS)
    small.rule(ruleset, "192.0.2.80/28", UDP, 8126, direction=Direction.INGRESS)
    peers = [small.node.serve(f"192.0.2.{n}", 7412, socket.SOCK_DGRAM) for n in range(80, 96)]
    small.node.add_addresses(V4)
    pod.spawn(_swallow, 8125)
    asked, answer = Pipe()
    pod.spawn(_answer_when_told, answer, 8126)
    assert eventually(lambda: _flooded(small, pod, 8125) and len(small.flows(slot)) >= 64)
    for peer in peers:
        peer.sendto(b"question", pod.ipv4, 8126)
        assert asked.poll(5), "the question came"
        asked.recv()
        for _ in range(5):
            _flooded(small, pod, 8125)
        asked.send("answer")
        assert eventually(lambda p=peer: (b"answer", pod.ipv4) in p.received, 2)  # type: ignore[misc]
    assert len(small.flows(slot)) == 64


@pytest.mark.core
def test_expired_flows_make_room_without_an_agent(small: Rig) -> None:
    """Nobody evicts; every question has its answer all the same."""
    pod = small.node.add_pod()
    slot, ruleset = small.manage(pod)
    small.node.serve(V4, 7411, socket.SOCK_DGRAM)
    small.rule(ruleset, V4, UDP, 7411)
    assert pod.run(_ask_many, V4, 7411, 200) == 200
    assert len(small.flows(slot)) == 64


@pytest.mark.core
def test_loopback_takes_no_share(small: Rig) -> None:
    pod = small.node.add_pod()
    slot, _ = small.manage(pod)
    _own_values(small, pod)
    assert pod.run(_talk_to_itself, ("127.0.0.1", "127.9.9.9", "::1", pod.ipv4, pod.ipv6), 40) == "ok"
    assert small.flows(slot) == []
    assert small.denials(slot) == {}


# -- network namespaces of a task's own


@pytest.fixture(scope="module")
def noted_rig() -> Iterator[Rig]:
    """As on kernels that do not tell a packet's network namespace: only `creators` knows it."""
    with attached("skb_netns") as made:
        yield made


def forged_questions(test: Callable[..., None]) -> Callable[..., None]:
    for mark in (
        pytest.mark.parametrize("quota", [4096, 0], ids=["flows", "answers"]),
        pytest.mark.parametrize(("evil", "allowed"), [("192.0.2.66", V4), ("2001:db8::66", V6)], ids=["v4", "v6"]),
    ):
        test = mark(test)
    return test


@pytest.mark.core
@forged_questions
def test_a_question_that_a_task_asks_itself_elsewhere_opens_nothing(
    rig: Rig, evil: str, allowed: str, quota: int
) -> None:
    """Between two namespaces of its own a task sends from any address; the question counts there only (P9)."""
    try:
        _forge(rig, evil, allowed, quota)
    finally:
        rig.configure()


@forged_questions
def test_nor_does_it_where_only_the_socket_s_making_tells_its_namespace(
    noted_rig: Rig, evil: str, allowed: str, quota: int
) -> None:
    _forge(noted_rig, evil, allowed, quota)


def _forge(rig: Rig, evil: str, allowed: str, quota: int) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod, ingress=Verdict.ALLOW)
    rig.rule(ruleset, allowed, UDP, 7470)
    server = rig.node.serve(evil, 7471 + quota, socket.SOCK_DGRAM)
    rig.configure(flow_quota=quota)
    assert pod.run(udp, evil, server.port, 1.0, 7470) == "EPERM"
    assert pod.run(_ask_itself, evil, server.port, allowed, 7470) == b"question"
    assert len(rig.flows(slot)) == (2 if quota else 0), "both ends of the question were allowed"
    assert pod.run(udp, evil, server.port, 1.0, 7470) == "EPERM"
    assert server.received == []
    pod.spawn(_answer_from_elsewhere, 7470, _family_of(evil))
    time.sleep(0.3)
    server.sendto(b"question", pod.ipv6 if ":" in evil else pod.ipv4, 7470)
    assert eventually(lambda: [data for data, _ in server.received] == [b"same socket", b"another socket"])


def test_where_nobody_knows_a_namespace_only_the_socket_that_was_asked_answers(noted_rig: Rig) -> None:
    noted_rig.configure()
    pod = noted_rig.node.add_pod()
    noted_rig.manage(pod, ingress=Verdict.ALLOW)
    server = noted_rig.node.serve(V4, 7480, socket.SOCK_DGRAM)
    pod.spawn(_answer_from_elsewhere, 7470, socket.AF_INET)
    time.sleep(0.3)
    _forget_creators(noted_rig)
    server.sendto(b"question", pod.ipv4, 7470)
    assert eventually(lambda: [data for data, _ in server.received] == [b"same socket"])
    time.sleep(0.2)
    assert [data for data, _ in server.received] == [b"same socket"]


def _forget_creators(rig: Rig) -> None:
    """As if sockets without end had been made."""
    zero = structs.CREATOR.pack()
    rig.maps["creators"].put_all((structs.U32.pack(value=n), zero) for n in range(structs.CREATOR_SLOTS))


# -- who opened a connection (P9)


@pytest.mark.core
@pytest.mark.parametrize(("way", "port"), [("accepted", 7490), ("accepted_by_a_former_client", 7492)])
def test_an_accepted_connection_is_none_of_the_pods_own(rig: Rig, way: str, port: int) -> None:
    """Its peer's port is one that the pod may connect to, and has connected to; the listener has gone."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.add_addresses(V4)
    rig.rule(ruleset, V4, TCP, port)
    rig.rule(ruleset, V4, TCP, port + 1, direction=Direction.INGRESS)
    with in_netns(rig.node.world), _listener(V4, port) as world:
        here, there = Pipe()
        pod.spawn(_serve_one, there, V4, port, way)
        assert world.accept()
        world.close()
        assert here.poll(10)
        client = _reusing(V4, port)
        client.settimeout(5)
        client.connect((pod.ipv4, port + 1))
    with client:
        assert client.recv(16) == b"hello"
        _forget_creators(rig)
        rig.unrule(ruleset, V4, TCP, port + 1, direction=Direction.INGRESS)
        rig.bump(slot)
        here.send("the own connection, so that its flow is judged again")
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.recv(16)
    assert rig.denials(slot).get(DropReason.NO_RULE, 0) >= 1


@pytest.mark.core
@pytest.mark.parametrize(("way", "port"), [("fresh", 7500), ("former_listener", 7502), ("former_server", 7504)])
def test_a_connection_of_the_pods_own_is_nobody_elses(rig: Rig, way: str, port: int) -> None:
    """Ingress is open to all; the pod listens on the port that it connects from, and `flows` has both directions."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod, ingress=Verdict.ALLOW)
    rig.node.add_addresses(V4)
    rig.rule(ruleset, V4, TCP, port)
    with in_netns(rig.node.world), _listener(V4, port) as world:
        here, there = Pipe()
        pod.spawn(_connect_where_it_listens, there, V4, port, way)
        if way == "former_server":
            assert eventually(lambda: attempt(_connect_once, V4, pod.ipv4, port + 1) == "ok")
        connection, _ = world.accept()
        assert here.poll(10)
        _connect_once(V4, pod.ipv4, here.recv())
    with connection:
        connection.settimeout(1)
        assert connection.recv(16) == b"hello"
        _forget_creators(rig)
        _revoke(rig, slot, ruleset, V4)
        here.send("again")
        with pytest.raises(TimeoutError):
            connection.recv(16)
    assert rig.denials(slot).get(DropReason.NO_RULE, 0) >= 1


def test_a_connection_whose_socket_has_no_memory_for_a_mark_is_not_made(rig: Rig) -> None:
    """A socket's memory for options is bounded, and a task may fill it before it connects."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod, ingress=Verdict.ALLOW)
    rig.node.serve(V4, 7494)
    rig.rule(ruleset, V4, TCP, 7494)
    assert pod.run(_connect_full_of_options, V4, 7494, False) == "ok"
    assert pod.run(_connect_full_of_options, V4, 7494, True) == "TIMEOUT"
    assert rig.denials(slot) == {DropReason.NOT_READY: pytest.approx(2, abs=1)}


# -- the pod itself (P7)


@pytest.mark.core
def test_a_pod_talks_to_itself_by_its_own_address(rig: Rig) -> None:
    pod = rig.node.add_pod()
    slot, _ = rig.manage(pod)
    _own_values(rig, pod)
    for address in ("127.0.0.1", "::1", pod.ipv4, pod.ipv6, "fe80"):
        assert pod.run(_serve_and_connect, address) == "ok", address
    assert rig.denials(slot) == {}


@pytest.mark.core
@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
@pytest.mark.parametrize("option", LOOPBACK_OPTIONS)
def test_loopback_addresses_do_not_leave_by_another_device(rig: Rig, address: str, option: str) -> None:
    pod = rig.node.add_pod()
    slot, _ = rig.manage(pod, egress=Verdict.ALLOW)
    _own_values(rig, pod)
    for send in (_datagram_by, _connect_by):
        outcome = pod.run(send, address, option)
        assert outcome != "sent", (send, outcome)
    seen = rig.denials(slot)
    assert set(seen) <= {DropReason.LOOPBACK}, seen
    assert rig.totals(slot)["sent_packets"] == 0


GROUPS = ("224.0.0.251", "255.255.255.255", "ff02::fb")


@pytest.mark.core
@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_a_pod_on_the_host_reaches_no_daemon_by_a_group(rig: Rig, group: str, *, connected: bool) -> None:
    """The copy that the stack gives the node's own sockets has no socket, and meets no egress hook (P7)."""
    pod = rig.node.add_pod()
    slot, _ = rig.manage(pod, flags=structs.FLAG_HOST_NETWORK)
    _on_the_host(rig, pod)
    with in_netns(pod.netns):
        daemon = _listening_to(group, 5353)
    with daemon:
        assert pod.run(_send_to_group, group, 5353, connected) in REFUSED
        with pytest.raises(TimeoutError):
            daemon.recv(16)
        assert rig.denials(slot) == {DropReason.NO_RULE: 1}
        rig.manage(pod, egress=Verdict.ALLOW, flags=structs.FLAG_HOST_NETWORK)
        assert pod.run(_send_to_group, group, 5353, connected) == "ok"
        assert daemon.recv(16) == b"hello", "the daemon listens"


# -- sources


@pytest.mark.core
def test_a_foreign_ipv6_source_leaves_no_pod(rig: Rig) -> None:
    """IPV6_FREEBIND and another pod's address: also on a flow that the pod has opened properly before."""
    pod, other = rig.node.add_pod(), rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.manage(other)
    _own_values(rig, pod)
    server = rig.node.serve(V6, 7420, socket.SOCK_DGRAM)
    rig.rule(ruleset, V6, UDP, 7420)
    assert pod.run(udp, V6, 7420) == "ok"
    received = len(server.received)
    assert pod.run(_datagram_from, other.ipv6, V6, 7420) == "EPERM"
    assert pod.run(_connected_datagram_from, other.ipv6, V6, 7420) in (*REFUSED, "EPERM")
    assert rig.denials(slot).get(DropReason.FOREIGN_SOURCE, 0) >= 1
    assert len(server.received) == received
    assert pod.run(udp, V6, 7420) == "ok"


def _on_the_host(rig: Rig, pod: Pod) -> None:
    """Its own IPv6 address is one of the host's."""
    key = structs.PREFIX.pack(length=128, address=structs.pack_address(socket_address(pod.ipv6)))
    number = rig.peer(pod.ipv6)
    rig.maps["hosts"].put(key, structs.CLASSES.pack(peer=number, base=number, flags=structs.ADDRESS_OF_HOST))


def _ask_oneself_as(stranger: str, own: str) -> list[str]:
    """What came of a question in a stranger's name to a socket of one's own, and of an answer to the stranger."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as answering, _from(stranger, 5000) as asking:
        answering.bind((own, 6000))
        return [
            attempt(asking.sendto, b"question", (own, 6000)),
            *(attempt(answering.sendto, b"secret", (stranger, 5000)) for _ in range(3)),
        ]


@pytest.mark.core
def test_a_pod_on_the_host_asks_nobody_in_a_peers_name(rig: Rig) -> None:
    """Who may reach the node only forges a question of a forbidden peer to itself, and answers the peer (P9)."""
    pod, victim = rig.node.add_pod(), rig.node.add_pod()
    slot, ruleset = rig.manage(pod, ingress=Verdict.ALLOW, flags=structs.FLAG_HOST_NETWORK)
    _on_the_host(rig, pod)
    rig.rule(ruleset, pod.ipv6, UDP, 0)
    stranger = rig.node.serve("2001:db8::66", 5000, socket.SOCK_DGRAM)
    assert pod.run(_ask_oneself_as, "2001:db8::66", pod.ipv6) == ["EPERM"] * 4
    assert pod.run(_ask_oneself_as, victim.ipv6, pod.ipv6)[0] == "EPERM", "nor in another pod's"
    assert stranger.received == []
    assert pod.run(udp, pod.ipv6, 6002, 0.2) == "TIMEOUT", "nobody listens there; by its own address it may ask"
    denials = rig.denials(slot)
    assert denials.pop(DropReason.FOREIGN_SOURCE) == 2
    assert set(denials) == {DropReason.NO_RULE}, "its answers to the peer"


def test_a_foreign_source_is_told_by_the_peers_too(rig: Rig) -> None:
    """Before the API has told the pod's own address: what is known to be somebody's is not this pod's."""
    pod, other = rig.node.add_pod(), rig.node.add_pod()
    _, ruleset = rig.manage(pod)
    rig.node.serve(V6, 7421, socket.SOCK_DGRAM)
    rig.rule(ruleset, V6, UDP, 7421)
    whole = structs.PREFIX.pack(length=128, address=structs.pack_address(socket_address(other.ipv6)))
    rig.maps["hosts"].put(whole, structs.CLASSES.pack(peer=99, base=99))
    assert pod.run(_datagram_from, other.ipv6, V6, 7421) == "EPERM"
    assert pod.run(udp, V6, 7421) == "ok"


def test_a_broken_segment_ends_no_connection(rig: Rig) -> None:
    """Right addresses and ports, any sequence number, seven extension headers."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.rule(ruleset, V6, TCP, 7430)
    rig.node.serve(V6, 7430)
    pod.spawn(_connect_and_hold, V6, 7430, 5431)
    assert eventually(lambda: bool(rig.flows(slot)))
    rig.events()
    with in_netns(rig.node.world):
        _send_segment_with_headers(V6, 7430, pod.ipv6, 5431)
    assert eventually(lambda: rig.denials(slot).get(DropReason.INVALID_PACKET, 0) >= 1)
    found = [decode_event(structs.EVENT.pack(**each)) for each in rig.events() if each["slot"] == slot]
    assert found
    assert not any(stalls(each) for each in found)


def test_a_syn_in_the_middle_ends_no_connection(rig: Rig) -> None:
    """Its ports are those of a connection that the pod opened; nobody may open one to it."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.rule(ruleset, V6, TCP, 7431)
    rig.node.serve(V6, 7431)
    pod.spawn(_connect_and_hold, V6, 7431, 5432)
    assert eventually(lambda: bool(rig.flows(slot)))
    time.sleep(0.2)
    received = rig.totals(slot)["received_packets"]
    with in_netns(rig.node.world):
        _send_segment(V6, 7431, pod.ipv6, 5432, flags=0x02)
    assert eventually(lambda: rig.totals(slot)["received_packets"] > received), "it was judged as the connection's"
    assert rig.denials(slot) == {}


def test_a_syn_ends_no_connection_that_is_being_opened(rig: Rig) -> None:
    """Somebody who knows its ports sends one to a socket that waits for an answer; nobody may open one to the pod."""
    silent = "2001:db8::77"
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.rule(ruleset, silent, TCP, 7432)
    ip(f"route add blackhole {silent}/128", netns=rig.node.world)
    pod.spawn(_connect_and_hold, silent, 7432, 5433)
    assert eventually(lambda: bool(rig.flows(slot)))
    time.sleep(0.2)
    rig.events()
    with in_netns(rig.node.world):
        _send_segment(silent, 7432, pod.ipv6, 5433, flags=0x02)
    assert eventually(lambda: rig.denials(slot) == {DropReason.NO_RULE: 1})
    found = [decode_event(structs.EVENT.pack(**each)) for each in rig.events() if each["slot"] == slot]
    assert [stalls(each) for each in found] == [False]


# -- clocks


def test_a_reply_s_clock_only_goes_forward(rig: Rig) -> None:
    """The last counters of a promoted socket are older than the packet that another socket has sent since."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(V4, 7440, socket.SOCK_DGRAM)
    rig.rule(ruleset, V4, UDP, 7440)
    assert pod.run(_promote_pause_ask_close, V4, 7440) == "ok"
    ((_, flow),) = [(k, f) for k, f in rig.flows(slot) if k["service_port"] == 7440 and not k["client_port"]]
    assert ((rig.jiffies.now() - flow["last"]) & 0xFFFFFFFF) < rig.hz


@pytest.mark.core
def test_an_observing_namespace_s_open_ingress_is_no_way_out(rig: Rig) -> None:
    """Mid-stream TCP is judged in the direction of who opened it, not in whichever allows (P9)."""
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod, ingress=Verdict.ALLOW)
    rig.node.serve(V4, 7450)
    rig.rule(ruleset, V4, TCP, 7450)
    pod.spawn(_echo_for_ever, V4, 7450)
    assert eventually(lambda: _sent(rig, slot) > 20)
    for key in rig.maps["flows"].keys():  # noqa: SIM118
        rig.maps["flows"].delete(key)
    _revoke(rig, slot, ruleset, V4)
    time.sleep(0.2)
    before = _sent(rig, slot)
    assert eventually(lambda: rig.denials(slot).get(DropReason.NO_RULE, 0) >= 1)
    time.sleep(0.3)
    assert _sent(rig, slot) == before
    assert all(key["direction"] == Direction.EGRESS for key, _ in rig.flows(slot))


def test_states_of_endpoints_are_not_mixed_up_in_nearby(rig: Rig) -> None:
    """An index of `nearby` goes from an unmanaged folder to nobody and to a managed one, over and over."""
    denied = rig.node.add_pod()
    slot, _ = rig.manage(denied)
    cgroup = denied.container.stat().st_ino
    index = structs.U32.pack(value=cgroup % structs.NEARBY_SLOTS)
    other = cgroup + structs.NEARBY_SLOTS
    values = [
        structs.NEARBY.pack(cgroup_id=other, state=int(EndpointState.UNMANAGED)),
        structs.NEARBY.pack(),
        structs.NEARBY.pack(cgroup_id=cgroup, state=int(EndpointState.MANAGED), epoch=slot),
        structs.NEARBY.pack(),
    ]
    denied.spawn(_send_for_ever, V4, 7460)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for value in values * 50:
            rig.maps["nearby"].put(index, value)
    assert rig.denials(slot).get(DropReason.NO_RULE, 0) > 1000
    assert rig.totals(slot)["sent_packets"] == 0


# -- inside the pods


def _ask_itself(source: str, port: int, address: str, own_port: int) -> bytes:
    """A datagram between two network namespaces of the task's own; what came."""
    family, (ready, go) = _family_of(source), (os.pipe(), os.pipe())
    bits = 128 if family == socket.AF_INET6 else 32
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_NEW_NETWORK) == 0
    other = os.fork()
    if other == 0:
        assert libc.unshare(_NEW_NETWORK) == 0
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        ip("link set lo up", f"addr add {address}/{bits} dev vb {'nodad' if bits == 128 else ''}", "link set vb up")
        ip(f"route add {source}/{bits} dev vb", f"neigh add {source} lladdr 02:00:00:00:00:01 dev vb nud permanent")
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, own_port))
            os.write(ready[1], b"2")
            sock.settimeout(10)
            os.write(ready[1], sock.recv(100))
        os._exit(0)
    os.read(ready[0], 1)
    ends = "link add va address 02:00:00:00:00:01 type veth peer name vb address 02:00:00:00:00:02"
    ip("link set lo up", f"{ends} netns {other}")
    ip(f"addr add {source}/{bits} dev va {'nodad' if bits == 128 else ''}", "link set va up")
    ip(f"route add {address}/{bits} dev va", f"neigh add {address} lladdr 02:00:00:00:00:02 dev va nud permanent")
    os.write(go[1], b"1")
    os.read(ready[0], 1)
    time.sleep(0.3)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((source, port))
        sock.sendto(b"question", (address, own_port))
        return os.read(ready[0], 100)


def _answer_from_elsewhere(port: int, family: socket.AddressFamily) -> None:
    """As servers do that connect a new socket for each peer."""
    sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sockets[0].bind(("", port))
    _, peer = sockets[0].recvfrom(100)
    sockets[0].sendto(b"same socket", peer)
    sockets[1].bind(("", port))
    sockets[1].connect(peer)
    sockets[1].send(b"another socket")


def _family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _reusing(address: str, port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((address, port))
    return sock


def _listener(address: str, port: int) -> socket.socket:
    sock = _reusing(address, port)
    sock.listen(8)
    sock.settimeout(10)
    return sock


def _connect_once(source: str, address: str, port: int) -> None:
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.bind((source, 0))
        sock.connect((address, port))


def _disconnect(sock: socket.socket) -> None:
    """connect(AF_UNSPEC): the same socket may connect, or listen, once more."""
    assert ctypes.CDLL(None, use_errno=True).connect(sock.fileno(), bytes(16), 16) == 0


def _serve_one(orders: Connection, address: str, port: int, way: str) -> None:
    own = socket.create_connection((address, port), 5)
    server = _reusing("", port + 1)
    if way == "accepted_by_a_former_client":
        server.connect((address, port))
        for _ in range(600):
            server.send(b"x")
        _disconnect(server)
    server.listen(1)
    orders.send("listens")
    accepted, _ = server.accept()
    server.close()
    accepted.send(b"hello")
    orders.recv()
    own.send(b"x")
    for _ in range(40):
        accepted.send(b"pay")
        time.sleep(0.05)


def _connect_where_it_listens(orders: Connection, address: str, port: int, way: str) -> None:
    sock = _reusing("", port + 1)
    if way != "fresh":
        sock.listen(1)
    if way == "former_server":
        listener, (sock, _) = sock, sock.accept()
        listener.close()
    if way != "fresh":
        _disconnect(sock)
        if way == "former_server":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.connect((address, port))
    sock.send(b"hello")
    server = _reusing("", sock.getsockname()[1])
    server.listen(8)
    orders.send(sock.getsockname()[1])
    orders.recv()
    for _ in range(40):
        sock.send(b"again")
        time.sleep(0.05)


def _fill_options(sock: socket.socket) -> None:
    """With keys of TCP_MD5SIG, until the kernel gives no more memory for options of this socket."""
    for number in range(100_000):
        peer = struct.pack("=HHI", socket.AF_INET, 0, number) + bytes(120)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, 14, peer + struct.pack("=BBHI", 0, 0, 1, 0) + b"k" + bytes(79))
        except OSError:
            assert number > 10
            return


def _connect_full_of_options(address: str, port: int, full: bool) -> str:
    with socket.socket() as sock:
        if full:
            _fill_options(sock)
        sock.settimeout(1.5)
        return attempt(sock.connect, (address, port))


def _send_for_ever(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while True:
            try:
                sock.sendto(b"x", (address, port))
            except OSError:
                continue


def _stall_for_ever() -> None:
    """Timers that all end in one interrupt, on every processor."""
    threads = [threading.Thread(target=_storm, args=(cpu,), daemon=True) for cpu in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _storm(cpu: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    os.sched_setaffinity(0, {cpu})
    fds = [libc.timerfd_create(1, 0o4000) for _ in range(400)]
    while True:
        now = time.monotonic_ns() + 2_000_000
        at = struct.pack("=qqqq", 0, 0, now // 10**9, now % 10**9)
        for fd in fds:
            libc.timerfd_settime(fd, 1, at, None)
        time.sleep(0.003)


def _swallow(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        while True:
            sock.recv(64)


def _answer_when_told(orders: Connection, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        while True:
            data, peer = sock.recvfrom(64)
            if data == b"question":  # not the echo of an answer
                orders.send(data)
                orders.recv()
                attempt(sock.sendto, b"answer", peer)


def _ask_many(address: str, port: int, count: int) -> int:
    return sum(udp(address, port) == "ok" for _ in range(count))


def _talk_to_itself(addresses: tuple[str, ...], count: int) -> str:
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.bind((address, 0))
            one.settimeout(1)
            for _ in range(count):
                with socket.socket(family, socket.SOCK_DGRAM) as other:
                    other.settimeout(1)
                    other.sendto(b"x", one.getsockname())
                    data, back = one.recvfrom(10)
                    one.sendto(data, back)
                    if other.recv(10) != b"x":
                        return address
    return "ok"


def _serve_and_connect(address: str) -> str:
    """`fe80`: the pod's own address on its link, once it is not tentative any more."""
    scope: tuple[int, ...] = ()
    if address == "fe80":
        address, scope = _link_local(), (0, socket.if_nametoindex("eth0"))
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        server.bind((address, 0, *scope))
        server.listen(1)
        threading.Thread(target=_echo_once, args=(server,), daemon=True).start()
        with socket.socket(server.family) as client:
            client.settimeout(3)
            outcome = attempt(client.connect, (address, server.getsockname()[1], *scope))
            if outcome != "ok":
                return outcome
            client.sendall(b"ping")
            return "ok" if client.recv(16) == b"ping" else "closed"


def _link_local() -> str:
    tentative = 0x40
    for _ in range(100):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            number, _, _, _, flags, device = line.split()
            if number.startswith("fe80") and device == "eth0" and not int(flags, 16) & tentative:
                return str(IPv6Address(bytes.fromhex(number)))
        time.sleep(0.05)
    raise AssertionError("eth0 has no address on its link")


def _echo_once(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(connection.recv(16))


def _bound(address: str, option: str, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    level, name, value = LOOPBACK_OPTIONS[option]
    if value is None:
        level, name = (socket.IPPROTO_IPV6, 76) if ":" in address else (level, name)
        value = struct.pack("!I", socket.if_nametoindex("eth0"))
    sock.setsockopt(level, name, value)
    return sock


def _datagram_by(address: str, option: str) -> str:
    with _bound(address, option, socket.SOCK_DGRAM) as sock:
        outcome = attempt(sock.sendto, b"x", (address, 7422))
        return "sent" if outcome == "ok" else outcome


def _connect_by(address: str, option: str) -> str:
    with _bound(address, option, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.3)
        return attempt(sock.connect, (address, 7422))


def _listening_to(group: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in group else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.3)
    sock.bind(("", port))
    index = socket.if_nametoindex("eth0")
    if ":" in group:
        request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, 20, request)  # IPV6_ADD_MEMBERSHIP
    elif group.startswith("224"):
        sock.setsockopt(socket.IPPROTO_IP, 35, socket.inet_aton(group) + bytes(4) + struct.pack("=i", index))
    return sock


def _send_to_group(group: str, port: int, connected: bool) -> str:
    with socket.socket(socket.AF_INET6 if ":" in group else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        index = socket.if_nametoindex("eth0")
        if ":" in group:
            sock.setsockopt(socket.IPPROTO_IPV6, 17, index)  # IPV6_MULTICAST_IF
        else:
            sock.setsockopt(socket.IPPROTO_IP, 32, bytes(8) + struct.pack("=i", index))  # IP_MULTICAST_IF
        if not connected:
            return attempt(sock.sendto, b"hello", (group, port))
        outcome = attempt(sock.connect, (group, port))
        return attempt(sock.send, b"hello") if outcome == "ok" else outcome


def _from(source: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
    sock.bind((source, port))
    return sock


def _datagram_from(source: str, address: str, port: int) -> str:
    with _from(source) as sock:
        return attempt(sock.sendto, b"spoofed", (address, port))


def _connected_datagram_from(source: str, address: str, port: int) -> str:
    with _from(source) as sock:
        sock.connect((address, port))
        return attempt(sock.send, b"spoofed")


def _connect_and_hold(address: str, port: int, own_port: int) -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("", own_port))
        sock.connect((address, port))
        time.sleep(60)


def _send_segment_with_headers(source: str, port: int, destination: str, own_port: int) -> None:
    """A TCP segment behind seven destination options, from the server's address."""
    options = b"".join(bytes((60 if n < 6 else TCP, 0, 1, 4, 0, 0, 0, 0)) for n in range(7))
    _send_segment(source, port, destination, own_port, flags=0x10, options=options)


def _send_segment(
    source: str, port: int, destination: str, own_port: int, *, flags: int, options: bytes = b""
) -> None:
    packed = [IPv6Address(each).packed for each in (source, destination)]
    segment = struct.pack("!HHIIBBHHH", port, own_port, 7, 7, 5 << 4, flags, 1024, 0, 0)
    pseudo = b"".join(packed) + struct.pack("!IHBB", len(segment), 0, 0, TCP)
    segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
    payload = options + segment
    header = struct.pack("!IHBB", 6 << 28, len(payload), 60 if options else TCP, 64)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
        sock.sendto(header + b"".join(packed) + payload, (destination, 0))


def _promote_pause_ask_close(address: str, port: int) -> str:
    """One connected socket has sent enough to be promoted and falls silent; another asks; the first is closed."""
    first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    first.connect((address, port))
    for _ in range(600):
        first.send(b"x")
    time.sleep(1.5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
        second.settimeout(1)
        second.connect((address, port))
        second.send(b"x")
        first.close()
        second.recv(10)
    return "ok"


def _echo_for_ever(address: str, port: int) -> None:
    with socket.create_connection((address, port), 3) as sock:
        sock.settimeout(3)
        while True:
            sock.sendall(b"x")
            sock.recv(16)
