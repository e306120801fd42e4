"""The second judge of tests/cases: every expectation as a real packet of a real pod, through the real maps.

Egress is tried from inside the pod: connect() for TCP, sendto() for UDP, a raw socket for all else (the endpoint's
entry gets leave for raw sockets, which changes no verdict). Ingress is tried from the peer's address to a listener in
the pod. Three witnesses must agree: what the application sees, what a packet socket in the world sees, and what the
kernel has written down (a flow's entry with its rule, or a denial's event and count with reason and rule).

Not on the wire, so without the second witness: a pod's way to itself (loopback, its own address). Not in the maps, so
without the third one: unmanaged pods, of which nothing is recorded, as the case then checks.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from agent.abi import structs
from agent.abi.structs import ENDPOINT, FLAG_RAW_SOCKETS, unpack_address
from agent.kernel.datapath import Datapath, detach
from agent.kernel.pins import Pins
from agent.kernel.probe import features
from agent.model.cluster import Address
from agent.model.identity import PodUid
from agent.model.verdict import Direction, EndpointState, EventKind, Verdict
from agent.sync.allocate import IdentityNumbers
from agent.sync.intake import Intake
from agent.sync.writer import Writer
from lab.node import PROGRAM_CACHE, Pod, ScratchNode, cgroup_mount, in_netns
from tests import caselib
from tests.caselib import Expectation
from tests.kernel.rig import ICMP, SCTP, TCP, UDP, Rig, eventually
from tests.kernel.sockets import attempt, echo_message, name_of
from tests.kernel.wire import Seen, Wire

CASES = caselib.load()
REFUSED = {"EACCES", "EPERM"}
ANSWER_SECONDS = 5.0
ECHO_ID = 77

Event = dict[str, Any]
Tuple = tuple[Address, int, int, Direction]
"""(peer, protocol, service port, direction)"""


@dataclass
class Theatre:
    """One node for all cases: the pods that any of them judges, with the addresses of their manifests."""

    node: ScratchNode
    rig: Rig
    wire: Wire
    pods: dict[str, Pod] = field(default_factory=dict)
    owners: dict[Address, Pod] = field(default_factory=dict)

    def netns_of(self, peer: Address) -> str:
        """Where packets from this address come from."""
        return self.owners[peer].netns if peer in self.owners else self.node.world

    def address(self, pod: Pod, like: Address) -> str:
        """The pod's address of the peer's family; of loopback, loopback."""
        if like.is_loopback:
            return str(like)
        return pod.ipv6 if like.version == 6 else pod.ipv4


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with ScratchNode() as node:
        datapath = Datapath(Pins(node.bpffs / "dagwall"), features(cgroup_mount()), cache=PROGRAM_CACHE)
        try:
            loaded = datapath.load()
            made = Theatre(node, Rig(node, datapath, loaded), Wire(node.world))
            made.rig.configure(event_rate=100_000, event_burst=100_000)
            for case in CASES:
                _add_pods(made, case)
            peers = {plain(e.peer) for case in CASES for e in case.expect} - made.owners.keys()
            node.add_addresses(*(str(a) for a in peers if _can_be_held(a)))
            datapath.attach([node.kubepods])
            yield made
            made.wire.close()
        finally:
            detach(node.bpffs / "dagwall")
            datapath.close()


def _can_be_held(address: Address) -> bool:
    """By an interface of the world's: no group, no broadcast, nothing that IPv6 keeps for a link."""
    if address.is_multicast or (address.version == 4 and address.is_reserved):
        return False
    return address.version == 4 or not (address.is_loopback or address.is_link_local)


def plain(address: Address) -> Address:
    """What a packet to this address says: a mapped one is IPv4."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _add_pods(theatre: Theatre, case: caselib.Case) -> None:
    names = {e.endpoint for e in case.expect}
    for uid, pod in caselib.cluster(case).pods.items():
        name = f"{pod.namespace}/{pod.name}"
        if name not in names or name in theatre.pods:
            continue
        if pod.host_network:  # the world's namespace is the node's
            theatre.pods[name] = replace(theatre.node.add_pod(uid), netns=theatre.node.world)
            continue
        ipv4 = next(str(a) for a in pod.addresses if a.version == 4)
        ipv6 = next((str(a) for a in pod.addresses if a.version == 6), "")
        theatre.pods[name] = theatre.node.add_pod(uid, ipv4=ipv4, ipv6=ipv6)
        theatre.owners |= dict.fromkeys(pod.addresses, theatre.pods[name])


@dataclass
class Stage:
    """One case in the maps, and what the kernel wrote down since."""

    theatre: Theatre
    writer: Writer
    events: list[Event] = field(default_factory=list)

    def slot(self, endpoint: str) -> int:
        return self.writer.endpoints.by_uid[PodUid(self.theatre.pods[endpoint].uid)].slot

    def state(self, endpoint: str) -> EndpointState:
        return self.writer.want.assignments[PodUid(self.theatre.pods[endpoint].uid)].state

    def rule(self, number: int) -> str:
        return str(self.writer.compiler.rule_refs.get(number, ""))  # type: ignore[call-overload]

    def event(self, e: Expectation, kind: EventKind) -> Event | None:
        """The first report of this attempt."""
        self.events += self.theatre.rig.events()
        found = (x for x in self.events if x["kind"] == kind and _tuple(x) == key_of(e))
        return next((x for x in found if x["slot"] == self.slot(e.endpoint)), None)

    def stays_in_pod(self, e: Expectation) -> bool:
        """What a pod sends to itself takes no share of any map (P7)."""
        uid = self.theatre.pods[e.endpoint].uid
        on_host = self.writer.want.assignments[PodUid(uid)].host_network
        own = self.theatre.pods[e.endpoint] is self.theatre.owners.get(plain(e.peer))
        return not on_host and (e.peer.is_loopback or own)

    def flow(self, e: Expectation) -> Event | None:
        folders = {
            f.stat().st_ino for f in (self.theatre.pods[e.endpoint].folder, self.theatre.pods[e.endpoint].container)
        }
        for key, value in self.theatre.rig.maps["flows"].items():
            fields = structs.FLOW_KEY.unpack(key)
            if fields["cgroup_id"] in folders and _tuple(fields) == key_of(e):
                return dict(structs.FLOW.unpack(value))
        return None

    def denials(self, e: Expectation, verdict: Verdict, rule: int) -> int:
        """Packets in `denials` of what this attempt is to be counted as."""
        total = 0
        for raw, value in self.theatre.rig.maps["denials"].items():
            key = structs.DENIAL_KEY.unpack(raw)
            about = (key["slot"], key["rule"], key["reason"], key["direction"], key["verdict"])
            if about == (self.slot(e.endpoint), rule, e.reason, e.direction, verdict):
                total += int(structs.DENIAL.unpack(value)["packets"])
        return total


def key_of(e: Expectation) -> Tuple:
    return plain(e.peer), e.protocol, e.port, e.direction


def _tuple(fields: Any) -> Tuple:
    peer = unpack_address(fields["peer"])
    return peer, fields["protocol"], fields["service_port"], Direction(fields["direction"])


@contextmanager
def staged(theatre: Theatre, case: caselib.Case) -> Iterator[Stage]:
    """The case compiled and written by the agent's own writer; nothing of the last case is left."""
    rig, cluster = theatre.rig, caselib.cluster(case)
    writer = Writer(rig.maps, IdentityNumbers(), Intake(lambda *_: None))
    pods = [pod for pod in theatre.pods.values() if pod.uid in cluster.pods]
    folders = [(PodUid(p.uid), f.stat().st_ino) for p in pods for f in (p.folder, p.container)]
    writer.start(cluster, folders)
    for name in ("flows", "denials", "pending"):
        rig.maps[name].delete_all(rig.maps[name].keys())
    _grant_raw_sockets(rig)
    rig.events()
    theatre.wire.forget()
    yield Stage(theatre, writer)


def _grant_raw_sockets(rig: Rig) -> None:
    for key, value in rig.maps["endpoints"].items():
        fields = dict(ENDPOINT.unpack(value))
        fields["flags"] |= FLAG_RAW_SOCKETS
        rig.maps["endpoints"].put(key, ENDPOINT.pack(**fields))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_by_real_packets(theatre: Theatre, case: caselib.Case) -> None:
    with staged(theatre, case) as stage:
        for endpoint in {e.endpoint for e in case.expect}:
            outgoing = [e for e in case.expect if e.endpoint == endpoint and e.direction is Direction.EGRESS]
            outcomes = theatre.pods[endpoint].run(_try_all, [_attempt_of(theatre, e) for e in outgoing])
            for e, outcome in zip(outgoing, outcomes, strict=True):
                _judge_outgoing(stage, e, outcome)
        for endpoint in {e.endpoint for e in case.expect}:
            incoming = [e for e in case.expect if e.endpoint == endpoint and e.direction is Direction.INGRESS]
            with listening(theatre.pods[endpoint], sorted({e.port for e in incoming})):
                for e in incoming:
                    _judge_incoming(stage, e)


def test_no_case_is_left_out() -> None:
    """What `_try_all` and `_judge_incoming` cannot send does not occur; a new kind of case must be taught to them."""
    for case in CASES:
        for e in case.expect:
            if e.direction is Direction.INGRESS:
                assert e.protocol == TCP, e
            else:
                assert e.protocol in (TCP, UDP) or e.peer.version == 4, e


def _judge_outgoing(stage: Stage, e: Expectation, outcome: str) -> None:
    theatre, pod = stage.theatre, stage.theatre.pods[e.endpoint]
    denied = e.verdict is Verdict.DENY
    # connect() cannot know whether such an address is the pod's own: egress drops the SYN, the agent ends the socket.
    left_to_egress = e.peer.is_link_local and e.peer.version == 6 and e.protocol == TCP and outcome == "TIMEOUT"
    assert (outcome in REFUSED or left_to_egress) == denied, f"{e}: the application saw {outcome}"
    if theatre.netns_of(plain(e.peer)) == theatre.node.world and not e.peer.is_loopback and e.protocol == TCP:
        assert denied or outcome in ("ok", "ECONNREFUSED"), f"{e}: no answer: {outcome}"
    if not e.peer.is_loopback and pod is not theatre.owners.get(plain(e.peer)):
        if denied:
            assert not _crossed(theatre, pod, e), f"{e}: left the pod"
        else:
            assert eventually(lambda: _crossed(theatre, pod, e)), f"{e}: never left the pod"
    _check_record(stage, e)


def _crossed(theatre: Theatre, pod: Pod, e: Expectation) -> bool:
    sources = {pod.ipv4, pod.ipv6}
    return any(
        str(p.source) in sources and (p.destination, p.protocol, p.port) == (plain(e.peer), e.protocol, e.port)
        for p in theatre.wire.look()
    )


def _judge_incoming(stage: Stage, e: Expectation) -> None:
    theatre, pod = stage.theatre, stage.theatre.pods[e.endpoint]
    netns = pod.netns if e.peer.is_loopback else theatre.netns_of(e.peer)
    with in_netns(netns):
        client = socket.socket(socket.AF_INET6 if e.peer.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    with client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        client.setblocking(False)
        client.bind((str(e.peer), 0))
        client.connect_ex((theatre.address(pod, e.peer), e.port))
        if e.verdict is Verdict.DENY:
            assert eventually(lambda: stage.event(e, EventKind.DENIED) is not None, ANSWER_SECONDS), f"{e}: no denial"
            assert not select.select([], [client], [], 0.05)[1], f"{e}: answered"
        else:
            assert select.select([], [client], [], ANSWER_SECONDS)[1], f"{e}: no answer"
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, e
        if not e.peer.is_loopback:
            ours = client.getsockname()[1]
            sent = Seen(e.peer, _ip(theatre.address(pod, e.peer)), TCP, ours, e.port)
            assert eventually(lambda: sent in theatre.wire.look()), f"{e}: was never sent"
        _check_record(stage, e)


def _ip(text: str) -> Address:
    return caselib.ip_address(text)


def _check_record(stage: Stage, e: Expectation) -> None:
    """What the kernel says about it: verdict, reason and rule."""
    if stage.state(e.endpoint) is EndpointState.UNMANAGED or stage.stays_in_pod(e):
        assert stage.flow(e) is None, f"{e}: recorded"
        return
    if e.verdict is not Verdict.DENY:
        flow = stage.flow(e)
        assert flow is not None, f"{e}: no flow"
        assert (flow["verdict"], flow["reason"]) == (e.verdict, e.reason), e
        assert e.rule in (None, stage.rule(flow["rule"])), e
    if e.verdict is not Verdict.ALLOW:
        event = stage.event(e, EventKind.DENIED if e.verdict is Verdict.DENY else EventKind.AUDITED)
        assert event is not None, f"{e}: no event"
        assert (event["verdict"], event["reason"]) == (e.verdict, e.reason), e
        assert e.rule in (None, stage.rule(event["rule"])), e
        assert stage.denials(e, e.verdict, event["rule"]) >= 1, f"{e}: not counted"


# -- inside the pod

Attempt = tuple[str, int, int, float]
"""(peer, protocol, port, seconds to wait for an answer)"""


def _attempt_of(theatre: Theatre, e: Expectation) -> Attempt:
    """Pods need not answer: their own ingress may be what a case closes."""
    silent = plain(e.peer) in theatre.owners and not e.peer.is_loopback
    return str(e.peer), e.protocol, e.port, 0.2 if silent else ANSWER_SECONDS


def _try_all(attempts: list[Attempt]) -> list[str]:
    return [_try(*each) for each in attempts]


def _try(peer: str, protocol: int, port: int, seconds: float) -> str:
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    target: tuple[Any, ...] = (peer, port)
    if peer.startswith(("fe80:", "ff02:")):
        target = (peer, port, 0, socket.if_nametoindex("eth0"))
    if protocol == TCP:
        return _connect(family, target, seconds)
    if protocol == UDP:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            return attempt(sock.sendto, b"x", target)
    payload = echo_message(8, ECHO_ID) if protocol == ICMP else struct.pack(">HHII", 40000, port, 0, 0)
    if protocol not in (ICMP, SCTP):
        payload = bytes(16)
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        return attempt(sock.sendto, payload, (peer, 0))


def _connect(family: int, target: tuple[Any, ...], seconds: float) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        sock.settimeout(seconds)
        try:
            sock.connect(target)
        except OSError as exc:
            return name_of(exc)
        return "ok"


@contextmanager
def listening(pod: Pod, ports: list[int]) -> Iterator[None]:
    """TCP listeners of both families in the pod, without which no packet meets its ingress hook."""
    if not ports:
        yield
        return
    reader, writer = os.pipe()
    pid = pod.spawn(_listen, ports, writer)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"x", "no listener"
        yield
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pod.children.remove(pid)


def _listen(ports: list[int], ready: int) -> None:
    servers = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in ports]
    os.write(ready, b"x")
    while servers:
        time.sleep(60)
