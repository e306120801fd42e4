"""Addresses of many kinds make rows in everybody's rulesets: who makes too many is refused, nobody else (P17)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from immutables import Map

from agent.compiler.capacity import check_capacity
from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.model.changes import between
from agent.model.cluster import Cluster, ContainerPort, EndpointSlice, Namespace, Service, ServicePort
from agent.model.identity import PodUid
from agent.model.network_policy import LivePodPeer, NetworkPolicy, NetworkPolicyRule
from agent.model.policy import CidrPeer, Peer, PodPeer, Policy, PolicyRef, PortMatch, Rule, Subject
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction, Verdict
from agent.sync.intake import Intake
from bench import worst

pytestmark = pytest.mark.timeout(600)
VICTIMS = [f"v{i:02}" for i in range(60)]
STEP, STEPS = 10, 5


def base(*peers: Peer) -> Cluster:
    """60 namespaces with a pod and a ruleset each, at a hundred ports of these peers."""
    ports = tuple(PortMatch(6, 1000 + 7 * i) for i in range(100))
    made = worst.cluster(0)
    policies = (
        Policy(PolicyRef(name, "TaskNetworkPolicy", "wide"), Subject(), (Rule("r", worst.EGRESS, peers, ports),))
        for name in VICTIMS
    )
    pods = (worst.pod(60_000 + i, name) for i, name in enumerate(VICTIMS))
    return replace(
        made,
        namespaces=made.namespaces.update({name: Namespace(name, managed=True) for name in (*VICTIMS, "evil")}),
        pods=made.pods.update({pod.uid: pod for pod in pods}),
        policies=made.policies.update({policy.ref: policy for policy in policies}),
    )


def kinds_of_pods(given: Cluster) -> Iterator[Cluster]:
    """Pods of another node, each of a kind of its own by a policy that selects nobody."""
    peers = (
        PodPeer("evil", None, LabelSelector((Requirement("app", Operator.IN, (f"a{i}",)),)))
        for i in range(STEP * STEPS)
    )
    rule = Rule("r", worst.EGRESS, tuple(peers), None)
    asking = Policy(PolicyRef("evil", "TaskNetworkPolicy", "kinds"), Subject(dag_ids=("nobody",)), (rule,))
    now = replace(given, policies=given.policies.set(asking.ref, asking))
    for step in range(STEPS):
        made = (replace(worst.pod(step * STEP + i, "evil"), node="other") for i in range(STEP))
        now = replace(now, pods=now.pods.update({pod.uid: pod for pod in made}))
        yield now


def kinds_of_cidrs(given: Cluster) -> Iterator[Cluster]:
    """Networks inside of what the others' rules name, each in a rule of its own."""
    now = given
    for step in range(STEPS):
        rules = tuple(
            Rule(f"r{i}", worst.EGRESS, (CidrPeer(ip_network(f"20.{step}.{i}.0/24")),), None) for i in range(STEP)
        )
        made = Policy(PolicyRef("evil", "TaskNetworkPolicy", f"c{step}"), Subject(dag_ids=("nobody",)), rules)
        now = replace(now, policies=now.policies.set(made.ref, made))
        yield now


def natives() -> Cluster:
    """The same by NetworkPolicies, which judge a service's address by what is behind it (P13)."""
    made = base(INSIDE)
    peers, ports = (LivePodPeer(None, LabelSelector(), LabelSelector()),), (PortMatch(6, 7000),)
    rule = NetworkPolicyRule("egress[0]", worst.EGRESS, peers, ports)
    policies = (
        NetworkPolicy(PolicyRef(name, "NetworkPolicy", "any"), LabelSelector(), egress=(rule,)) for name in VICTIMS
    )
    return replace(
        made,
        policies=Map(),
        network_policies=Map({policy.ref: policy for policy in policies}),
        settings=replace(made.settings, network_policy=True),
    )


def kinds_of_services(given: Cluster) -> Iterator[Cluster]:
    """Services of 200 ports each, all of which lead to the one that the others' rules allow."""
    now = given
    for step in range(2):
        services, slices = now.services.mutate(), now.slices.mutate()
        for n in range(step * 10, step * 10 + 10):
            name, numbers = f"s{n}", [1 + 200 * n + i for i in range(200)]
            ports = tuple(ServicePort(f"p{i}", 6, number) for i, number in enumerate(numbers))
            ends = tuple(ContainerPort(f"p{i}", 6, 7000) for i in range(len(numbers)))
            services["evil", name] = Service("evil", name, (ip_address("10.96.0.0") + n,), ports)
            slices["evil", name] = EndpointSlice("evil", name, name, (ip_address("10.0.234.96"),), ends)
        now = replace(now, services=services.finish(), slices=slices.finish())
        yield now


ANY_POD = PodPeer(None, None, LabelSelector())
ANY_APP = PodPeer(None, None, LabelSelector((Requirement("app", Operator.EXISTS),)))
INSIDE = CidrPeer(ip_network("20.0.0.0/9"))


@pytest.mark.parametrize(
    ("given", "attack", "kinds"),
    [
        (base(ANY_APP), kinds_of_pods, {"Pod"}),
        (base(INSIDE), kinds_of_cidrs, {"TaskNetworkPolicy"}),
        (natives(), kinds_of_services, {"Service", "EndpointSlice"}),
    ],
    ids=["pods", "cidrs", "services"],
)
def test_kinds_of_one_namespace_stop_nobody_else(
    given: Cluster, attack: Callable[[Cluster], Iterator[Cluster]], kinds: set[str]
) -> None:
    """Pods of another node froze every revision of this one; CIDRs had the others' own edits refused."""
    gate = Intake(lambda want, cluster: check_capacity(want, worst.LIMITS, cluster), worst.ROWS)
    compiler, taken = gate.compiled(given)
    before = given
    for now in attack(given):
        compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
        before = now
    errors = gate.errors()
    assert errors
    assert {error.obj.split("/")[0] for error in errors} <= kinds
    assert {error.obj.split("/")[1] for error in errors} == {"evil"}
    assert all(
        "rows of map rules for the kinds" in error.problem or "too many kinds" in error.problem for error in errors
    )
    assert len(compiler.want.rules) < worst.ROWS * 6 // 10
    ref, address = PolicyRef("v07", "TaskNetworkPolicy", "wide"), ip_address("192.0.2.7")
    edited = Policy(ref, Subject(), (worst.rule("more", (worst.cidr(f"{address}/32"),), 5432),))
    now = replace(before, policies=before.policies.set(ref, edited), network_policies=Map())
    compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
    assert taken.policies[ref] == edited
    assert lookup(compiler.want, PodUid("u60007"), worst.EGRESS, address, 6, 5432).verdict is Verdict.ALLOW


def test_room_that_comes_back_is_given() -> None:
    gate = Intake(lambda want, cluster: check_capacity(want, worst.LIMITS, cluster), worst.ROWS)
    given = base(ANY_APP)
    compiler, taken = gate.compiled(given)
    before = given
    for now in kinds_of_pods(given):
        compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
        before = now
    assert PodUid("u00049") not in taken.pods
    fewer = before.pods.mutate()
    for i in range(45):
        del fewer[PodUid(f"u{i:05}")]
    now = replace(before, pods=fewer.finish())
    compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
    assert not gate.errors()
    assert PodUid("u00049") in taken.pods
    fresh = Compiler()
    fresh.update(taken)
    assert fresh.want.rules == compiler.want.rules


def test_pods_that_come_and_go_cost_no_compiler_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace of too many kinds that loses one pod is not tried again."""
    gate = Intake(lambda want, cluster: check_capacity(want, worst.LIMITS, cluster), worst.ROWS)
    before = base(ANY_APP)
    compiler, taken = gate.compiled(before)
    for now in kinds_of_pods(before):
        compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
        before = now
    monkeypatch.setattr(Intake, "recompiled", lambda *_: pytest.fail("compiled from nothing"))
    for i in range(4):
        pods = before.pods.delete(PodUid(f"u{i:05}"))
        new = replace(worst.pod(1000 + i, "evil"), node="other")
        now = replace(before, pods=pods.set(new.uid, new))
        compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
        before = now
        assert new.uid not in taken.pods
    assert len(gate.errors()) == len(before.pods) - len(taken.pods)


def test_one_kind_of_many_rows_is_not_greed() -> None:
    """One pod that everybody's policies name with many ports."""
    ports = tuple(PortMatch(6, 1 + 2 * i) for i in range(1000))
    made = base(ANY_POD)
    many = {
        ref: replace(policy, egress=(Rule("r", worst.EGRESS, (ANY_POD,), ports),))
        for ref, policy in made.policies.items()
    }
    given = replace(made, policies=Map(many))
    gate = Intake(lambda want, cluster: check_capacity(want, worst.LIMITS, cluster), worst.ROWS)
    _, taken = gate.compiled(given)
    assert not gate.errors()
    assert len(taken.pods) == len(given.pods)


def attacked(given: Cluster, pods_of: str = "evil") -> tuple[Intake, Compiler, Cluster, Cluster]:
    """After pods of ever other kinds: the gate, its compiler, the snapshot and what was taken of it."""
    gate = Intake(lambda want, cluster: check_capacity(want, worst.LIMITS, cluster), worst.ROWS)
    compiler, taken = gate.compiled(given)
    before = given
    for step in kinds_of_pods(given):
        made = (replace(p, namespace=pods_of) if p.namespace == "evil" else p for p in step.pods.values())
        now = replace(step, pods=Map({pod.uid: pod for pod in made}))
        compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
        before = now
    return gate, compiler, before, taken


def test_labels_that_others_ask_about_cost_nobody_a_row() -> None:
    """Whoever allows all pods, or all of a namespace, has the rows of their base class."""
    given = base(ANY_POD)
    compiler = Compiler()
    compiler.update(given)
    rows = len(compiler.want.rules)
    for pods_of in ("evil", "v00"):
        gate, compiler, before, taken = attacked(given, pods_of)
        assert not gate.errors()
        assert taken.pods == before.pods
        assert len(compiler.want.rules) < 2 * rows


def test_a_deny_rule_takes_pods_that_were_left_out_for_what_it_names() -> None:
    """Their addresses are in a wide range that is allowed."""
    evil = PodPeer("evil", None, LabelSelector((Requirement("app", Operator.EXISTS),)))
    allow = Rule("all", Direction.INGRESS, (CidrPeer(ip_network("10.0.0.0/8")),), None)
    deny = Rule("not-evil", Direction.INGRESS, (evil,), (PortMatch(6, 5432),))
    ref = PolicyRef("v00", "TaskNetworkPolicy", "db")
    made = base(ANY_APP)
    given = replace(made, policies=made.policies.set(ref, Policy(ref, Subject(), ingress=(allow,), deny=(deny,))))
    _, compiler, before, taken = attacked(given)
    out = [uid for uid in before.pods if uid not in taken.pods]
    assert out
    for uid in (*out, *(uid for uid, pod in taken.pods.items() if pod.namespace == "evil")):
        (address,) = before.pods[uid].addresses
        for port, verdict in ((5432, Verdict.DENY), (80, Verdict.ALLOW)):
            assert lookup(compiler.want, PodUid("u60000"), Direction.INGRESS, address, 6, port).verdict is verdict


def test_a_revocation_of_all_is_taken_while_pods_are_left_out() -> None:
    """That they were looked at again had it refused, as the only one that was not in force."""
    gate, compiler, before, taken = attacked(base(ANY_APP))
    assert gate.errors()
    out = {uid for uid in before.pods if uid not in taken.pods}
    address = ip_address("20.0.0.9")
    deny = Rule("no", worst.EGRESS, (worst.cidr(f"{address}/32"),), None)
    ref = PolicyRef("", "ClusterTaskNetworkPolicy", "revoked")
    now = replace(before, policies=before.policies.set(ref, Policy(ref, Subject(), deny=(deny,))))
    compiler, taken, _ = gate.steps(compiler, taken, now, between(before, now))
    assert ref in taken.policies
    assert {uid for uid in now.pods if uid not in taken.pods} == out
    assert {error.obj.split("/")[0] for error in gate.errors()} == {"Pod"}
    found = lookup(compiler.want, PodUid("u60007"), worst.EGRESS, address, 6, 1000)
    assert found.verdict is Verdict.DENY


@pytest.mark.parametrize("peer", [ANY_POD, CidrPeer(ip_network("0.0.0.0/0"))], ids=["pods", "world"])
@pytest.mark.parametrize("by_name", [False, True])
def test_namespaces_that_others_ask_about_cost_nobody_a_row(peer: Peer, by_name: bool) -> None:
    """A policy that selects nobody names 40 namespaces, with a pod each on another node."""
    given = base(peer)
    names = [f"n{i:02}" for i in range(40)]
    made = (replace(worst.pod(2000 + i, name), node="other") for i, name in enumerate(names))
    selectors = (
        LabelSelector((Requirement("kubernetes.io/metadata.name", Operator.IN, (name,)),)) for name in names
    )  # fmt: skip
    peers = (
        tuple(PodPeer(name, None, LabelSelector()) for name in names)
        if by_name
        else tuple(PodPeer(None, each, LabelSelector()) for each in selectors)
    )
    asking = Policy(
        PolicyRef("evil", "TaskNetworkPolicy", "kinds"), Subject(dag_ids=("nobody",)),
        (Rule("r", worst.EGRESS, peers, None),),
    )  # fmt: skip
    now = replace(
        given,
        namespaces=given.namespaces.update(
            {n: Namespace(n, labels=(("kubernetes.io/metadata.name", n),)) for n in names}
        ),
        pods=given.pods.update({pod.uid: pod for pod in made}),
    )
    gate = Intake(lambda want, cluster: check_capacity(want, worst.LIMITS, cluster), worst.ROWS)
    compiler, taken = gate.compiled(now)
    rows = len(compiler.want.rules)
    more = replace(now, policies=now.policies.set(asking.ref, asking))
    compiler, taken, _ = gate.steps(compiler, taken, more, between(now, more))
    assert not gate.errors()
    assert taken.policies == more.policies
    assert len(compiler.want.rules) == rows


def test_namespaces_that_allow_themselves_cost_their_own_rows_only() -> None:
    """Of 300 namespaces each allows its own pods, and two ports of the world."""
    names = [f"n{i:03}" for i in range(300)]
    ports = (PortMatch(6, 443), PortMatch(6, 5432))
    made = worst.cluster(0)
    rules = {
        name: (
            Rule("own", worst.EGRESS, (PodPeer(name, None, LabelSelector()),), None),
            Rule("world", worst.EGRESS, (CidrPeer(ip_network("0.0.0.0/0")),), ports),
        )
        for name in names
    }
    policies = (Policy(PolicyRef(name, "TaskNetworkPolicy", "own"), Subject(), each) for name, each in rules.items())
    pods = [worst.pod(3000 + i, name) for i, name in enumerate(names)]
    compiler = Compiler()
    compiler.update(
        replace(
            made,
            namespaces=made.namespaces.update({name: Namespace(name, managed=True) for name in names}),
            pods=Map({pod.uid: pod for pod in pods}),
            policies=Map({policy.ref: policy for policy in policies}),
        )
    )
    assert len(compiler.want.rules) < 20 * len(names)
