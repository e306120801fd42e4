"""Peers named by DNS names (`fqdn`): an address is allowed for the names that its identity was given it for (S4)."""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import dns.message
import dns.rrset
import pytest

from agent.app.agent import Agent
from agent.kernel.datapath import detach
from lab.node import Pod, ScratchNode, ip
from tests.kernel.resolver import Resolver, look_up, look_up_by_stream, look_up_two_by_stream
from tests.kernel.rig import eventually
from tests.kernel.test_agent import SETTINGS, Machine, pod_manifest

DNS, OTHER_DNS, DNS6 = "192.0.2.53", "192.0.2.54", "2001:db8::53"
API, OTHER, API6 = "198.51.100.10", "198.51.100.20", "2001:db8:1::10"
METADATA = "169.254.169.254"
T = TypeVar("T")


OPEN_INGRESS = """
apiVersion: dagwall.io/v1alpha1
kind: ClusterTaskNetworkPolicy
metadata: {name: open}
spec: {ingress: [{name: any}]}
"""


def policy(*rules: str, dag: str = "etl", name: str = "names") -> str:
    listed = "\n".join(f"  - {rule}" for rule in rules)
    return f"""
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: {name}, namespace: airflow}}
spec:
  subject: {{dagIds: ["{dag}"]}}
  egress:
  - to: [{{entity: dns}}]
{listed}
"""


def fqdn(*names: str, port: int = 443, protocol: str = "TCP") -> str:
    peers = ", ".join(f"{{fqdn: '{name}'}}" for name in names)
    return f"{{to: [{peers}], ports: [{{port: {port}, protocol: {protocol}}}]}}"


def connects(address: str, port: int = 443) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(3)
        try:
            sock.connect((address, port))
            sock.sendall(b"hello")
            return sock.recv(16) == b"hello"
        except OSError:
            return False


def looks_up_and_connects(name: str, kind: str = "A", server: str = DNS, port: int = 443) -> list[bool]:
    return [connects(address, port) for address in look_up(server, name, kind)]


class World(Machine):
    """A node with an agent's files and DNS servers."""

    def __init__(self, node: ScratchNode, folder: Path) -> None:
        super().__init__(node, folder)
        self.dns, self.other, self.dns6 = (Resolver(node, each) for each in (DNS, OTHER_DNS, DNS6))
        for address in (API, OTHER, API6):
            for port in (443, 8443):
                node.serve(address, port)
        zone = {
            "api.example.org": [API, API6], "example.org": [OTHER], "www.other.net": [OTHER],
            "meta.example.org": [METADATA],
        }  # fmt: skip
        for resolver in (self.dns, self.other, self.dns6):
            resolver.zone.update(zone)
        self.numbers = itertools.count(1)

    @contextmanager
    def running(self, **changes: object) -> Iterator[Agent]:
        with self.agent(replace(SETTINGS, dns=tuple(map(ip_address, (DNS, DNS6)))), **changes) as agent:
            yield agent

    def close(self) -> None:
        for each in (self.dns, self.other, self.dns6):
            each.close()
        detach(self.node.bpffs / "dagwall")


class Task:
    """A pod of a DAG of its own, a neighbour of another one, and policies for both. `agent`: None while none runs."""

    def __init__(self, world: World, agent: Agent | None = None) -> None:
        self.world, self.agent, self.dag = world, agent, f"etl{next(world.numbers)}"
        self.pod, self.neighbour = self._add(self.dag), self._add(f"{self.dag}-other")
        self.wait()

    def _add(self, dag: str) -> Pod:
        pod = self.world.node.add_pod()
        self.world.write(f"{dag}.yaml", pod_manifest(dag, pod.uid, pod.ipv4, dag))
        return pod

    def wait(self) -> None:
        """Until the kernel knows both pods."""
        if self.agent is not None:
            writer = self.agent.node.writer
            assert eventually(lambda: {self.pod.uid, self.neighbour.uid} <= writer.want.assignments.keys(), 20)
            assert eventually(lambda: not writer.pending(), 20)

    def rules(self, *rules: str, other: bool = False) -> None:
        """A policy of these rules, for the neighbour with `other`; in force when this returns."""
        dag = f"{self.dag}-other" if other else self.dag
        writer = self.agent.node.writer if self.agent else None
        before = writer.cluster.revision if writer else 0
        self.world.write(f"{dag}-policy.yaml", policy(*rules, dag=dag, name=dag))
        if writer:
            assert eventually(lambda: writer.cluster.revision > before, 20)
            time.sleep(0.3)


def talking(pod: Pod, function: Callable[..., T], *args: object) -> Callable[[], T]:
    """Runs it in the pod beside the test; the result waits for its end."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(lambda: pod.run(function, *args, timeout=60))
    pool.shutdown(wait=False)
    return lambda: future.result(timeout=60)


def losses(world: World, task: Task) -> dict[str, int]:
    """By reason, from the kernel's maps."""
    assert task.agent is not None
    return dict(task.agent.totals.read(world.outputs.newest).losses)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Agent]]:
    """One agent for most tests, which have tasks of their own."""
    with ScratchNode() as node:
        made = World(node, tmp_path_factory.mktemp("names"))
        try:
            with made.running() as agent:
                yield made, agent
        finally:
            made.close()


@pytest.fixture
def world(shared: tuple[World, Agent]) -> Iterator[World]:
    made = shared[0]
    before = dict(made.dns.zone), dict(made.dns.aliases)
    yield made
    made.dns.reply, made.dns.ttl, made.dns.most = made.dns.answer, 60, 64
    made.dns.zone, made.dns.aliases = before


@pytest.fixture
def task(world: World, shared: tuple[World, Agent]) -> Task:
    return Task(world, shared[1])


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """Without an agent; a test starts its own."""
    with ScratchNode() as node:
        made = World(node, tmp_path)
        try:
            yield made
        finally:
            made.close()


def test_a_name_is_allowed_from_the_lookup_on_for_whoever_looked_it_up(world: World, task: Task) -> None:
    task.rules(fqdn("api.example.org"))
    task.rules(fqdn("api.example.org"), other=True)
    assert not task.pod.run(connects, API), "nobody has looked it up"
    assert task.pod.run(looks_up_and_connects, "api.example.org") == [True]
    assert task.pod.run(looks_up_and_connects, "API.Example.ORG", "AAAA", DNS6) == [True]
    assert not task.pod.run(connects, API, 8443), "the rule has a port"
    assert task.pod.run(looks_up_and_connects, "www.other.net") == [False], "another name"
    assert not task.neighbour.run(connects, API), "another identity has not asked"
    assert task.neighbour.run(looks_up_and_connects, "api.example.org") == [True]


def test_a_wildcard_means_longer_names_only(world: World, task: Task) -> None:
    task.rules(fqdn("*.example.org"))
    world.dns.zone["a.b.c.example.org"] = [OTHER]
    assert task.pod.run(looks_up_and_connects, "example.org") == [False]
    assert task.pod.run(looks_up_and_connects, "api.example.org") == [True]
    assert task.pod.run(looks_up_and_connects, "a.b.c.example.org") == [True]


def test_an_alias_is_followed_to_its_addresses(world: World, task: Task) -> None:
    """They belong to the name that was asked for, whatever the names between are."""
    task.rules(fqdn("bucket.example.org"))
    world.dns.aliases |= {"bucket.example.org": "edge.cdn.net", "edge.cdn.net": "www.other.net"}
    assert task.pod.run(looks_up_and_connects, "www.other.net") == [False]
    assert task.pod.run(looks_up_and_connects, "bucket.example.org") == [True]


def test_a_shared_address_is_allowed_by_any_of_its_names(world: World, task: Task) -> None:
    task.rules(fqdn("b.example.org"))
    for name in ("a.example.org", "b.example.org", "c.example.org"):
        world.dns.zone[name] = [OTHER]
    assert task.pod.run(looks_up_and_connects, "a.example.org") == [False]
    assert task.pod.run(looks_up_and_connects, "b.example.org") == [True]
    assert task.pod.run(looks_up_and_connects, "c.example.org") == [True], "b has the same address"


def test_names_never_lead_to_metadata_node_or_cluster(world: World, task: Task) -> None:
    """S4: whoever owns a name may write any address into it."""
    task.rules(fqdn("*.example.org"))
    neighbour = task.neighbour.ipv4
    world.dns.zone["pod.example.org"] = [neighbour]
    world.dns.zone["unknown.example.org"] = ["10.77.200.1"]
    world.node.serve(METADATA, 443)
    task.neighbour.spawn(listen, neighbour, 443)
    for name in ("meta.example.org", "pod.example.org", "unknown.example.org"):
        assert task.pod.run(looks_up_and_connects, name) == [False], name
    assert task.pod.run(looks_up_and_connects, "api.example.org") == [True]


def listen(address: str, port: int) -> None:
    with socket.create_server((address, port)) as server:
        while True:
            server.accept()[0].close()


def test_an_answer_of_nobody_that_was_asked_teaches_nothing(world: World, task: Task) -> None:
    """Another server than the cluster's, another id, a name that was not asked for, a second answer."""
    task.rules(fqdn("api.example.org"), f"{{to: [{{cidr: {OTHER_DNS}/32}}], ports: [{{port: 53, protocol: UDP}}]}}")
    assert task.pod.run(looks_up_and_connects, "api.example.org", "A", OTHER_DNS) == [False], "no server of ours"

    def wrong_id(query: dns.message.Message) -> bytes:
        query.id ^= 1
        return world.dns.answer(query)

    def wrong_name(query: dns.message.Message) -> bytes:
        other = dns.message.make_query("api.example.org", "A", id=query.id)
        return world.dns.answer(other)

    before = losses(world, task).get("unasked_answer", 0)
    world.dns.reply = wrong_id
    assert not task.pod.run(looks_up_and_connects_whatever_came, "api.example.org", API)
    world.dns.reply = wrong_name
    assert not task.pod.run(looks_up_and_connects_whatever_came, "www.other.net", API)
    assert losses(world, task)["unasked_answer"] == before + 2
    world.dns.reply = world.dns.answer
    assert task.pod.run(looks_up_and_connects_whatever_came, "api.example.org", API)


def looks_up_and_connects_whatever_came(name: str, address: str) -> bool:
    query = dns.message.make_query(name, "A")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((DNS, 53))
        sock.send(query.to_wire())
        sock.recv(65535)
    return connects(address)


def test_a_pod_cannot_answer_itself(world: World, task: Task) -> None:
    """By its own address and by loopback, with the question asked of itself."""
    task.rules(fqdn("api.example.org"))
    for address in ("127.0.0.1", task.pod.ipv4):
        assert task.pod.run(answers_itself, address), "the answer came"
        assert not task.pod.run(connects, API)


def answers_itself(address: str) -> bool:
    query = dns.message.make_query("api.example.org", "A")
    made = dns.message.make_response(query)
    made.answer.append(dns.rrset.from_text("api.example.org.", 60, "IN", "A", API))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for each in (server, client):
            each.settimeout(2)
        server.bind((address, 53))
        client.sendto(query.to_wire(), (address, 53))
        server.sendto(made.to_wire(), server.recvfrom(512)[1])
        return bool(client.recv(512))


def test_a_task_that_is_its_own_dns_server_in_its_own_namespaces_learns_nothing(world: World, task: Task) -> None:
    """Without any privilege a task may make a user namespace and two network namespaces, and in one of them it may
    have the DNS server's address. Then the answer comes from outside, of the right server, to its question."""
    world.write("open.yaml", OPEN_INGRESS)
    task.rules(fqdn("api.example.org"))
    for again in range(2):
        assert task.pod.run(asks_itself_in_namespaces), f"{again}: the answer came"
        assert not task.pod.run(connects, API)
    assert task.pod.run(looks_up_and_connects, "api.example.org") == [True]
    (world.files / "open.yaml").unlink()


def asks_itself_in_namespaces() -> bool:
    new_user, new_network = 0x10000000, 0x40000000
    libc, (ready, go) = ctypes.CDLL(None, use_errno=True), (os.pipe(), os.pipe())
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its own files in /proc are its own again
    assert libc.unshare(new_user | new_network) == 0
    for name, text in (("setgroups", "deny"), ("uid_map", "0 65534 1"), ("gid_map", "0 65534 1")):
        Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
    server = os.fork()
    if server == 0:
        assert libc.unshare(new_network) == 0
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        ip("link set lo up", f"addr add {DNS}/32 dev vb", "link set vb up", "route add 10.9.9.9/32 dev vb")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((DNS, 53))
            os.write(ready[1], b"2")
            sock.settimeout(10)
            data, peer = sock.recvfrom(512)
            made = dns.message.make_response(dns.message.from_wire(data))
            made.answer.append(dns.rrset.from_text("api.example.org.", 60, "IN", "A", API))
            sock.sendto(made.to_wire(), peer)
        os._exit(0)
    os.read(ready[0], 1)
    ip("link set lo up", f"link add va type veth peer name vb netns {server}")
    ip("addr add 10.9.9.9/32 dev va", "link set va up", f"route add {DNS}/32 dev va")
    os.write(go[1], b"1")
    os.read(ready[0], 1)
    return look_up(DNS, "api.example.org") == [API]


def test_what_expires_is_denied_and_what_is_open_goes_on(alone: World) -> None:
    """Also where the connection is judged anew, because the policy is another one."""
    alone.dns.ttl, task = 1, Task(alone)
    task.rules(fqdn("api.example.org"), fqdn("api.example.org", port=8443))
    with alone.running(dns_min_ttl_seconds=1) as task.agent:
        task.wait()
        reader = talking(task.pod, looks_up_and_keeps, "api.example.org", 12)
        time.sleep(2.5)
        assert not task.pod.run(connects, API, 8443), "the name's time is over, and no flow to this port is open"
        task.rules(fqdn("api.example.org"), fqdn("www.other.net"))
        assert reader() == 12, "the connection was never cut"


def looks_up_and_keeps(name: str, seconds: int) -> int:
    """How many of its words came back, one each second, on one connection."""
    (address,) = look_up(DNS, name)
    came = 0
    with socket.create_connection((address, 443), timeout=3) as sock:
        for _ in range(seconds):
            sock.sendall(b"word")
            came += sock.recv(16) == b"word"
            time.sleep(0.5)
    return came


def test_an_edit_forgets_nothing_and_takes_away_at_once(world: World, task: Task) -> None:
    """P10: of two names of one address one goes, then the other; and a wider name knows what was learned before."""
    task.rules(fqdn("api.example.org"))
    assert task.pod.run(looks_up_and_connects, "api.example.org") == [True]
    task.rules(fqdn("*.example.org"))
    assert task.pod.run(connects, API), "learned for the name's text, not for the rule"
    task.rules(fqdn("www.other.net"))
    assert not task.pod.run(connects, API)
    task.rules(fqdn("*.org"))
    assert task.pod.run(connects, API)


def test_an_open_connection_ends_with_its_name(world: World, task: Task) -> None:
    task.rules(fqdn("api.example.org"))
    ended = talking(task.pod, looks_up_and_waits_for_the_end, "api.example.org")
    time.sleep(1)
    began = time.monotonic()
    task.rules(fqdn("www.other.net"))
    assert ended() < 3
    assert time.monotonic() - began < 3


def looks_up_and_waits_for_the_end(name: str) -> float:
    """Seconds until an idle connection is ended."""
    (address,) = look_up(DNS, name)
    with socket.create_connection((address, 443), timeout=10) as sock:
        began = time.monotonic()
        try:
            sock.recv(1)
        except OSError:
            return time.monotonic() - began
    return 99.0


def test_what_was_learned_outlives_the_agent(alone: World) -> None:
    task = Task(alone)
    task.rules(fqdn("api.example.org"))
    with alone.running() as task.agent:
        task.wait()
        assert task.pod.run(looks_up_and_connects, "api.example.org") == [True]
    assert task.pod.run(connects, API), "no agent"
    assert task.pod.run(looks_up_and_connects, "api.example.org", "AAAA", DNS6) == [True], "learned without one"
    with alone.running():
        assert task.pod.run(connects, API)
        assert task.pod.run(connects, API6)


def test_datagrams_by_name_and_their_answers(world: World, task: Task) -> None:
    world.node.serve(API, 4433, socket.SOCK_DGRAM)
    task.rules(fqdn("api.example.org", port=4433, protocol="UDP"))
    assert not task.pod.run(exchanges, API, 4433)
    assert task.pod.run(look_up, DNS, "api.example.org") == [API]
    assert task.pod.run(exchanges, API, 4433)
    task.rules(fqdn("www.other.net"))
    assert not task.pod.run(exchanges, API, 4433)


def exchanges(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        try:
            sock.sendto(b"ping", (address, port))
            return sock.recv(16) == b"ping"
        except OSError:
            return False


def test_many_addresses_of_one_answer(world: World, task: Task) -> None:
    """As many as a message of 4,096 bytes holds (EDNS)."""
    world.dns.most = 240
    world.dns.zone["big.example.org"] = [f"203.0.{113 + n // 120}.{n % 120 + 1}" for n in range(240)]
    last = world.dns.zone["big.example.org"][-1]
    for address in (world.dns.zone["big.example.org"][0], last):
        world.node.serve(address, 443)
    task.rules(fqdn("big.example.org"))
    assert len(task.pod.run(look_up, DNS, "big.example.org")) == 240
    assert task.pod.run(connects, last)
    assert task.pod.run(connects, world.dns.zone["big.example.org"][0])


def test_answers_over_tcp_are_learned(world: World, task: Task) -> None:
    """What a stub resolver asks again for, when an answer was too long for a datagram."""
    world.dns.zone["big.example.org"] = [*(f"203.0.113.{n + 1}" for n in range(60)), API]
    task.rules(fqdn("big.example.org"))
    for server, kind in ((DNS, "A"), (DNS6, "AAAA")):
        task.pod.run(look_up_by_stream, server, "api.example.org", kind)
    assert not task.pod.run(connects, API)
    assert len(task.pod.run(look_up_by_stream, DNS, "big.example.org")) == 61
    assert task.pod.run(connects, API)


def test_only_the_first_answer_of_a_stream_is_learned(world: World, task: Task) -> None:
    """A later segment may begin anywhere in an answer, in a text that the owner of a name has chosen: a server that
    does its duty would teach whatever stands there."""
    world.dns.zone["late.example.org"] = [OTHER]
    task.rules(fqdn("api.example.org", "late.example.org"))
    names = ("api.example.org", "late.example.org")
    for pause in (0.0, 0.2):
        assert task.pod.run(partial(look_up_two_by_stream, pause=pause), DNS, names) == [[API], [OTHER]]
    assert task.pod.run(connects, API)
    assert not task.pod.run(connects, OTHER)
    assert task.pod.run(looks_up_and_connects, "late.example.org") == [True]


def test_an_address_that_becomes_a_pod_s_is_no_name_s_any_more(world: World, task: Task) -> None:
    """S4, P10: its connections end within a second, and so do exchanges of datagrams."""
    assert task.agent is not None
    world.node.serve("203.0.113.77", 443)
    world.dns.zone["moving.example.org"] = ["203.0.113.77"]
    task.rules(fqdn("moving.example.org"))
    ended = talking(task.pod, looks_up_and_waits_for_the_end, "moving.example.org")
    assert eventually(lambda: task.pod.run(connects, "203.0.113.77"), 20)
    time.sleep(0.5)
    world.write("moved.yaml", pod_manifest("moved", "12345678-0000-4000-8000-000000000077", "203.0.113.77", "other"))
    try:
        assert ended() < 10
        assert not task.pod.run(connects, "203.0.113.77")
    finally:
        (world.files / "moved.yaml").unlink()


def test_rotating_answers_are_known_at_once(world: World, task: Task) -> None:
    """0 false denials of a client that connects in the instant in which it has its answer."""
    pool = [f"203.0.113.{n}" for n in range(1, 201)]
    world.dns.zone["s3.example.org"], world.dns.most = pool, 8
    world.node.add_addresses(*pool)
    task.rules(fqdn("s3.example.org"))
    assert task.pod.run(connects_after_each_lookup, "s3.example.org", 1000, timeout=120) == (1000, 0)


def connects_after_each_lookup(name: str, times: int) -> tuple[int, int]:
    """(lookups, connections that were refused by a rule)"""
    denied = 0
    for _ in range(times):
        address = look_up(DNS, name)[0]
        with socket.socket() as sock:
            try:
                sock.connect((address, 443))
            except ConnectionRefusedError:
                continue
            except OSError:
                denied += 1
    return times, denied
