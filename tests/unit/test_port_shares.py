"""Named ports of pods cost everybody's wide rules rows: they have shares, and who has too many is named (P17)."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Network, collapse_addresses, ip_address, ip_network

from immutables import Map

from agent.compiler.compiler import Compiler
from agent.compiler.port_shares import NAMED_PORTS
from agent.model.changes import Changes, between
from agent.model.cluster import Cluster, ContainerPort, EndpointSlice, Namespace, Pod, Service, ServicePort
from agent.model.network_policy import NetworkPolicy, NetworkPolicyRule
from agent.model.policy import CidrPeer, PodPeer, Policy, PolicyRef, PortMatch, Rule, Subject
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.sync.intake import Intake
from bench import worst
from tests.unit.test_service_shares import intake

VICTIMS = [f"v{i:02}" for i in range(20)]
PEER = (PodPeer("etl", None, LabelSelector()),)


def wide(namespace: str, network: str = "192.0.2.0/24") -> Policy:
    rules = tuple(worst.rule(name, (worst.cidr(network),), 1, 65535) for name in ("a", "b"))
    return Policy(PolicyRef(namespace, "TaskNetworkPolicy", "wide"), Subject(), rules)


def naming(count: int) -> Policy:
    names = tuple(PortMatch(6, name=f"n{i}") for i in range(count))
    rule = Rule("r", worst.EGRESS, PEER, names)
    return Policy(PolicyRef("etl", "TaskNetworkPolicy", "names"), Subject(dag_ids=("nobody",)), (rule,))


def with_ports(i: int, count: int) -> Pod:
    """On another node; the same names at ever other numbers."""
    ports = tuple(ContainerPort(f"n{k}", 6, 1 + (i * count + k) % 65535) for k in range(count))
    return replace(worst.pod(i), node="other", ports=ports)


def cluster() -> Cluster:
    made = worst.cluster(0)
    pods = (worst.pod(60_000 + i, name) for i, name in enumerate(VICTIMS))
    return replace(
        made,
        namespaces=made.namespaces.update({name: Namespace(name, managed=True) for name in VICTIMS}),
        pods=made.pods.update({pod.uid: pod for pod in pods}),
        policies=made.policies.update({wide(name).ref: wide(name) for name in VICTIMS}),
    )


def added(given: Cluster, *pods: Pod, policy: Policy | None = None) -> Cluster:
    policies = given.policies if policy is None else given.policies.set(policy.ref, policy)
    return replace(given, pods=given.pods.update({pod.uid: pod for pod in pods}), policies=policies)


def step(gate: Intake, compiler: Compiler, taken: Cluster, before: Cluster, now: Cluster) -> tuple[Compiler, Cluster]:
    compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
    return compiler, taken


def test_ports_that_pods_name_freeze_nobody() -> None:
    """10 pods of 1,000 ports each refused every revision of everybody."""
    gate, base = intake(), cluster()
    compiler, taken = gate.compiled(base)
    evil = added(base, *(with_ports(i, 1000) for i in range(10)), policy=naming(1000))
    compiler, taken = step(gate, compiler, taken, base, evil)
    assert [error.obj for error in gate.errors()] == [f"Pod/etl/{with_ports(i, 1).name}" for i in range(10)]
    assert "it needs 1,000 numbers of its own for ports that policies name, one object may have" in str(
        gate.errors()[0]
    )
    edited = replace(evil, policies=evil.policies.set(wide("v01").ref, wide("v01", "198.51.100.0/24")))
    compiler, taken = step(gate, compiler, taken, evil, edited)
    assert str(taken.policies[wide("v01").ref].egress).count("198.51.100.0") == 2
    assert len(compiler.want.rules) < 1000
    assert set(evil.pods) == set(taken.pods), "they stay endpoints and peers"


def test_many_pods_that_have_few_each_have_the_share_of_their_namespace() -> None:
    gate, base = intake(), cluster()
    compiler, taken = gate.compiled(base)
    now = added(base, *(with_ports(i, 100) for i in range(20)), policy=naming(1000))
    compiler, taken = step(gate, compiler, taken, base, now)
    left = [pod for pod in taken.pods.values() if pod.ports]
    assert (len(left), len(gate.errors())) == (NAMED_PORTS // 2 // 100, 15)


def test_what_is_in_force_stays_and_room_that_comes_is_given() -> None:
    gate, base = intake(), cluster()
    compiler, taken = gate.compiled(added(base, with_ports(9, 200), with_ports(8, 200), policy=naming(1000)))
    before = added(base, with_ports(9, 200), with_ports(8, 200), policy=naming(1000))
    now = added(before, with_ports(1, 200))
    compiler, taken = step(gate, compiler, taken, before, now)
    assert [error.obj for error in gate.errors()] == [f"Pod/etl/{with_ports(1, 1).name}"]
    without = replace(now, pods=now.pods.delete(with_ports(9, 1).uid))
    compiler, taken = step(gate, compiler, taken, now, without)
    assert not gate.errors()
    assert taken.pods[with_ports(1, 1).uid].ports
    fresh = Compiler()
    fresh.update(taken)
    assert fresh.want.rules == compiler.want.rules
    assert fresh.want.ports == compiler.want.ports


def test_names_that_no_policy_asks_for_cost_nothing() -> None:
    gate, base = intake(), cluster()
    given = added(base, *(with_ports(i, 1000) for i in range(10)))
    gate.compiled(given)
    assert not gate.errors()


def test_backends_of_many_kinds_cost_each_ruleset_little() -> None:
    """One Service of 140 ports, 1,000 endpoints that ten rules tell apart, 60 rulesets: minutes for each step."""
    address = ip_address("10.0.40.0")
    codes = []
    for bit in range(10):
        blocks = collapse_addresses(IPv4Network((int(address) + i, 32)) for i in range(1000) if i >> bit & 1)
        codes.append(NetworkPolicyRule(f"egress[{bit}]", worst.EGRESS, tuple(map(CidrPeer, blocks)), None))
    every = NetworkPolicyRule("all", worst.EGRESS, (CidrPeer(ip_network("10.0.40.0/21")),), None)
    given = [NetworkPolicy(PolicyRef("etl", "NetworkPolicy", "codes"), selector("a1"), egress=(*codes, every))]
    for i in range(60):
        rules = tuple(
            NetworkPolicyRule(f"egress[{n}]", worst.EGRESS, None, (PortMatch(6, 20_000 + 200 * n + i),))
            for n in range(100)
        )
        given.append(NetworkPolicy(PolicyRef("etl", "NetworkPolicy", f"n{i}"), selector(f"a{i}"), egress=rules))
    service = Service(
        "etl", "s", (ip_address("10.96.1.1"),), tuple(ServicePort(f"h{i}", 6, 80 + i) for i in range(140))
    )

    def slice_(count: int) -> EndpointSlice:
        ports = tuple(ContainerPort(f"h{i}", 6, 80 + i) for i in range(140))
        return EndpointSlice("etl", "s-0", "s", tuple(address + i for i in range(count)), ports)

    snapshot = worst.cluster(60, native=tuple(given))
    snapshot = replace(snapshot, services=Map({("etl", "s"): service}), slices=Map({("etl", "s-0"): slice_(1000)}))
    began = time.process_time()
    gate = Intake(lambda *_: None)
    compiler, taken = gate.compiled(snapshot)
    less = replace(snapshot, slices=snapshot.slices.set(("etl", "s-0"), slice_(999)))
    compiler, taken, _ = gate.steps(compiler, taken, less, Changes(slices=frozenset([("etl", "s-0")])))
    assert time.process_time() - began < 10, "22 s, and more than 580 s for one endpoint less"
    fresh = Compiler()
    fresh.update(taken)
    assert fresh.want.rules == compiler.want.rules


def selector(app: str) -> LabelSelector:
    return LabelSelector((Requirement("app", Operator.IN, (app,)),))
