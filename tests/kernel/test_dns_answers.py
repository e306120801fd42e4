"""Answers of DNS servers reach the agent as they came, at a bounded rate; nothing else from port 53 does."""

from __future__ import annotations

import socket

import dns.message
import dns.rrset
import pytest

from agent.abi.structs import DNS_BYTES
from agent.flows.decode import RawAnswer, decode_record
from agent.model.verdict import EndpointState, Loss
from tests.kernel.rig import UDP, Rig, eventually

pytestmark = pytest.mark.core
V4, V6 = "192.0.2.53", "2001:db8::53"


def answer(name: str = "api.stripe.com", addresses: int = 1) -> bytes:
    made = dns.message.make_response(dns.message.make_query(name, "A"))
    found = [f"203.0.113.{n}" for n in range(1, addresses + 1)]
    made.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", *found))
    return made.to_wire()


def echo(address: str, port: int, messages: tuple[bytes, ...]) -> int:
    """Sends them to an echo server: what comes back is what a server would have answered. How many came back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    came = 0
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        for message in messages:
            sock.sendto(message, (address, port))
            try:
                came += sock.recv(65536) == message
            except TimeoutError:
                continue
    return came


def answers(rig: Rig) -> list[RawAnswer]:
    records = (decode_record(raw) for raw in rig.datapath.events.read())
    return [record for record in records if isinstance(record, RawAnswer)]


@pytest.mark.parametrize("server", [V4, V6])
def test_an_answer_comes_whole_and_with_its_endpoint(rig: Rig, server: str) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(server, 53, socket.SOCK_DGRAM)
    rig.rule(ruleset, server, UDP, 53)
    answers(rig)
    sent = (answer("a.example"), answer("b.example", 20))
    assert pod.run(echo, server, 53, sent) == 2
    found = answers(rig)
    assert tuple(each.message for each in found) == sent
    assert {(each.event.slot, str(each.event.peer), each.event.service_port) for each in found} == {
        (slot, server, 53)
    }


def test_what_is_longer_is_cut(rig: Rig) -> None:
    pod = rig.node.add_pod()
    _, ruleset = rig.manage(pod)
    rig.node.serve(V4, 53, socket.SOCK_DGRAM)
    rig.rule(ruleset, V4, UDP, 53)
    answers(rig)
    long = answer("long.example", 200)
    assert len(long) > DNS_BYTES
    for length in (DNS_BYTES - 1, DNS_BYTES, DNS_BYTES + 1, len(long), 12):
        assert pod.run(echo, V4, 53, (long[:length],)) == 1
        assert [each.message for each in answers(rig)] == [long[: min(length, DNS_BYTES)]]


def test_nothing_else_is_reported(rig: Rig) -> None:
    """Questions, other ports, too short ones, pods that are not managed, servers that are not allowed."""
    managed, unmanaged = rig.node.add_pod(), rig.node.add_pod()
    _, ruleset = rig.manage(managed)
    rig.manage(unmanaged, state=EndpointState.UNMANAGED)
    for port in (53, 5353):
        rig.node.serve(V4, port, socket.SOCK_DGRAM)
        rig.rule(ruleset, V4, UDP, port)
    rig.node.serve("192.0.2.54", 53, socket.SOCK_DGRAM)
    answers(rig)
    question = dns.message.make_query("a.example", "A").to_wire()
    assert managed.run(echo, V4, 53, (question, answer()[:11], b"x")) == 3
    assert managed.run(echo, V4, 5353, (answer(),)) == 1
    assert unmanaged.run(echo, V4, 53, (answer(),)) == 1
    assert managed.run(_refused, "192.0.2.54")
    assert answers(rig) == []


def _refused(server: str) -> bool:
    try:
        return echo(server, 53, (answer(),)) == 0
    except PermissionError:
        return True


def test_a_socket_of_many_questions_is_reported_to_the_end_and_no_faster_than_its_share(rig: Rig) -> None:
    """Beyond 256 packets its flow is copied into the socket; the rest of the answers counts as lost."""
    pod, other = rig.node.add_pod(), rig.node.add_pod()
    for each in (pod, other):
        _, ruleset = rig.manage(each)
        rig.rule(ruleset, V4, UDP, 53)
    rig.node.serve(V4, 53, socket.SOCK_DGRAM)
    answers(rig)
    lost = rig.losses()[Loss.ANSWER_RATE]
    assert pod.run(echo, V4, 53, (answer(),) * 600, timeout=60) == 600
    reported = len(answers(rig))
    assert 200 <= reported < 600
    assert rig.losses()[Loss.ANSWER_RATE] - lost == 600 - reported
    assert other.run(echo, V4, 53, (answer("other.example"),)) == 1
    assert eventually(lambda: len(answers(rig)) == 1), "another pod's share is its own"
