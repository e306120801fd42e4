"""What ports others name, by number or by name, costs nobody's wide rules a row (P17)."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Network, collapse_addresses, ip_address, ip_network

from immutables import Map

from agent.compiler.compiler import Compiler
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


def rows_of_victims(compiler: Compiler, given: Cluster) -> int:
    uids = {pod.uid for pod in given.pods.values() if pod.namespace in VICTIMS}
    rulesets = {assignment.ruleset for uid, assignment in compiler.want.assignments.items() if uid in uids}
    return sum(key.ruleset in rulesets for key in compiler.want.rules)


def test_ports_that_pods_name_freeze_nobody() -> None:
    """10 pods of 1,000 ports each refused every revision of everybody."""
    gate, base = intake(), cluster()
    compiler, taken = gate.compiled(base)
    rows = rows_of_victims(compiler, base)
    evil = added(base, *(with_ports(i, 1000) for i in range(10)), policy=naming(1000))
    compiler, taken = step(gate, compiler, taken, base, evil)
    assert not gate.errors()
    edited = replace(evil, policies=evil.policies.set(wide("v01").ref, wide("v01", "198.51.100.0/24")))
    compiler, taken = step(gate, compiler, taken, evil, edited)
    assert str(taken.policies[wide("v01").ref].egress).count("198.51.100.0") == 2
    assert rows_of_victims(compiler, edited) <= rows, "one of its addresses is alone now"


def test_ports_that_policies_number_freeze_nobody() -> None:
    """4,000 numbers within their quotas, beside 60 wide rules of others, filled map `rules`: an edit of the others'
    was refused."""
    gate, base = intake(), cluster()
    many = tuple(worst.rule(f"w{i}", (worst.cidr(f"198.51.{i}.0/24"),), 1, 65535) for i in range(60))
    victim = Policy(PolicyRef("v00", "TaskNetworkPolicy", "many"), Subject(), many)
    base = added(base, policy=victim)
    compiler, taken = gate.compiled(base)
    rows = rows_of_victims(compiler, base)
    numbers = [tuple(PortMatch(6, 1 + 16 * (1000 * n + i)) for i in range(1000)) for n in range(4)]
    evil = base
    for n, ports in enumerate(numbers):
        rule = Rule("r", worst.EGRESS, (worst.cidr("20.0.0.1/32"),), ports)
        evil = added(evil, policy=Policy(PolicyRef(f"v1{n}", "TaskNetworkPolicy", "numbers"), Subject(), (rule,)))
    compiler, taken = step(gate, compiler, taken, base, evil)
    assert not gate.errors()
    edited = added(evil, policy=replace(victim, egress=many[:59]))
    compiler, taken = step(gate, compiler, taken, evil, edited)
    assert not gate.errors()
    assert len(taken.policies[victim.ref].egress) == 59
    assert rows_of_victims(compiler, edited) < rows + 4 * 1100


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
    assert time.process_time() - began < 60, "22 s, and more than 580 s for one endpoint less"
    fresh = Compiler()
    fresh.update(taken)
    assert fresh.want.rules == compiler.want.rules


def selector(app: str) -> LabelSelector:
    return LabelSelector((Requirement("app", Operator.IN, (app,)),))
