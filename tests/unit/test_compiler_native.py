"""The layer of NetworkPolicy: what is particular to it, asked of the compiler and of the judge at once (P1, P13)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from immutables import Map

from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.judge.judge import Decision, judge
from agent.model.changes import between
from agent.model.cluster import (
    Cluster,
    ContainerPort,
    EndpointSlice,
    Namespace,
    Pod,
    Service,
    ServicePort,
    Settings,
)
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.network_policy import LivePodPeer, NetworkPolicy, NetworkPolicyRule
from agent.model.policy import CidrPeer, DefaultPosture, Policy, PolicyRef, PortMatch, Rule, RuleRef, Subject
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction, DropReason, Verdict
from agent.outputs.words import nearest_text

REF, OWN = PolicyRef("etl", "NetworkPolicy", "n"), PolicyRef("etl", "TaskNetworkPolicy", "p")
ALL, WEB = LabelSelector(), LabelSelector((Requirement("app", Operator.IN, ("web",)),))
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS
HOST, METADATA, SITE, FRONT = (ip_address(a) for a in ("10.0.0.254", "169.254.169.254", "8.8.8.8", "10.96.0.1"))


def pod(name: str, address: str, *, app: str = "", **fields: Any) -> Pod:
    claim = Claim(Identity("c", "etl", "default", "", "", Kind.OTHER), (("app", "frozen"),))
    labels = (("app", app),) if app else ()
    return Pod(PodUid(name), "etl", name, claim, labels, (ip_address(address),), **fields)


TASK, ONE, TWO = pod("task", "10.0.0.1"), pod("one", "10.0.0.2", app="web"), pod("two", "10.0.0.3", app="web")
TO_WEB = NetworkPolicyRule("egress[0]", EGRESS, (LivePodPeer("etl", None, WEB),), (PortMatch(6, 8080),))


def cluster(egress: Any = None, ingress: Any = None, *pods: Pod, **settings: Any) -> Cluster:
    one = NetworkPolicy(REF, ALL, egress, ingress)
    return Cluster(
        pods=Map({each.uid: each for each in pods or (TASK, ONE, TWO)}),
        namespaces=Map({"etl": Namespace("etl", managed=True)}),
        network_policies=Map({REF: one}),
        settings=Settings(baseline=(), network_policy=True, metadata=(METADATA,), host_addresses=(HOST,))
        if not settings
        else Settings(**{"baseline": (), "network_policy": True, **settings}),
    )


def served(was: Cluster) -> Cluster:
    port = ServicePort("http", 6, 80, 8080)
    piece = EndpointSlice("etl", "w", "web", (*ONE.addresses, *TWO.addresses), (ContainerPort("http", 6, 8080),))
    service = Service("etl", "web", (FRONT,), (port,))
    return replace(was, services=Map({("etl", "web"): service}), slices=Map({("etl", "w"): piece}))


def ask(  # noqa: PLR0917  the order of lookup()
    snapshot: Cluster, direction: Direction, address: Any, protocol: int = 6, port: int = 80, compiler: Any = None
) -> Decision:
    if compiler is None:
        compiler = Compiler()
        compiler.update(snapshot)
    said = judge(snapshot, snapshot.pods[TASK.uid], direction, address, protocol, port)
    found = lookup(compiler.want, TASK.uid, direction, address, protocol, port)
    assert (found.verdict, found.reason, compiler.rule_refs.get(found.rule)) == (said.verdict, said.reason, said.rule)
    return said


def test_nothing_without_the_flag() -> None:
    assert ask(cluster((), ()), EGRESS, SITE).verdict is Verdict.DENY
    assert ask(cluster((), (), network_policy=False), EGRESS, SITE).verdict is Verdict.ALLOW


def test_a_rule_without_ports_means_every_protocol() -> None:
    anywhere = NetworkPolicyRule("egress[0]", EGRESS, None, None)
    for protocol in (1, 6, 17, 47, 132):
        assert ask(cluster((anywhere,)), EGRESS, SITE, protocol, 0).rule == RuleRef(REF, "egress[0]")
    tcp = replace(anywhere, ports=(PortMatch(6),))
    assert ask(cluster((tcp,)), EGRESS, SITE).verdict is Verdict.ALLOW
    assert ask(cluster((tcp,)), EGRESS, SITE, 1, 0).verdict is Verdict.DENY


def test_metadata_addresses_are_addresses_without_p11() -> None:
    block = NetworkPolicyRule("egress[0]", EGRESS, (CidrPeer(ip_network("0.0.0.0/0")),), None)
    assert ask(cluster((block,)), EGRESS, METADATA).verdict is Verdict.ALLOW
    assert ask(cluster((replace(block, peers=None),)), EGRESS, METADATA).verdict is Verdict.ALLOW
    hole = CidrPeer(ip_network("0.0.0.0/0"), (ip_network("169.254.0.0/16"),))
    assert ask(cluster((replace(block, peers=(hole,)),)), EGRESS, METADATA).verdict is Verdict.DENY


def test_the_node_reaches_its_pods_and_a_host_network_pod_is_not_selected() -> None:
    assert ask(cluster((), ()), INGRESS, HOST).verdict is Verdict.ALLOW  # P8
    assert ask(cluster((), ()), EGRESS, HOST).verdict is Verdict.DENY
    assert ask(cluster((), (), replace(TASK, host_network=True)), EGRESS, SITE).verdict is Verdict.ALLOW


def test_every_layer_must_let_it_pass() -> None:
    block = (CidrPeer(ip_network("8.0.0.0/8")),)
    both = replace(
        cluster((NetworkPolicyRule("egress[0]", EGRESS, block, (PortMatch(6, 80), PortMatch(6, 81))),)),
        policies=Map(
            {OWN: Policy(OWN, Subject(), (Rule("own", EGRESS, block, (PortMatch(6, 80), PortMatch(6, 82))),))}
        ),
    )
    assert ask(both, EGRESS, SITE, 6, 80).rule == RuleRef(OWN, "own")
    only = {81: "dagwall", 82: "NetworkPolicy", 83: "dagwall"}
    for port, layer in only.items():
        said = ask(both, EGRESS, SITE, 6, port)
        assert (said.verdict, said.reason, said.layer) == (Verdict.DENY, DropReason.NO_RULE, layer)
    assert nearest_text(ask(both, EGRESS, SITE, 6, 82).nearest) == "NetworkPolicy/etl/n/egress[0] lacks port 82/TCP"
    assert ask(both, EGRESS, ip_address("9.9.9.9"), 6, 82).nearest is None, "a rule on other peers only is not near"
    hole = CidrPeer(ip_network("8.0.0.0/8"), (ip_network("8.0.0.0/9"),))
    left = cluster((NetworkPolicyRule("egress[0]", EGRESS, (hole,), (PortMatch(6, 82),)),))
    assert nearest_text(ask(left, EGRESS, SITE, 6, 82).nearest).endswith(
        f"lacks peer {SITE}, which its `except` leaves out"
    )


def test_a_default_of_deny_is_not_lifted() -> None:
    anywhere = NetworkPolicyRule("egress[0]", EGRESS, None, None)
    strict = cluster((anywhere,), default_posture=DefaultPosture.DENY)
    assert ask(strict, EGRESS, SITE).layer == "dagwall"


def test_the_agents_audit_denies_nothing() -> None:
    said = ask(cluster((), (), audit_everything=True), EGRESS, SITE)
    assert (said.verdict, said.layer) == (Verdict.AUDIT, "NetworkPolicy")


def test_labels_are_live() -> None:
    snapshot, compiler = cluster((TO_WEB,)), Compiler()
    compiler.update(snapshot)
    assert ask(snapshot, EGRESS, ONE.addresses[0], 6, 8080, compiler).verdict is Verdict.ALLOW
    moved = replace(snapshot, pods=snapshot.pods.set(ONE.uid, replace(ONE, labels=(("app", "db"),))))
    changes = between(snapshot, moved)
    assert not changes.everything_else
    ruleset = compiler.want.assignments[TASK.uid].ruleset
    assert ruleset in compiler.update(moved, changes).revoked
    assert ask(moved, EGRESS, ONE.addresses[0], 6, 8080, compiler).verdict is Verdict.DENY


def test_a_service_is_allowed_if_every_endpoint_is() -> None:
    snapshot, compiler = served(cluster((TO_WEB,))), Compiler()
    compiler.update(snapshot)
    assert ask(snapshot, EGRESS, FRONT, 6, 80, compiler).rule == RuleRef(REF, "egress[0]")
    assert ask(snapshot, EGRESS, FRONT, 6, 8080, compiler).verdict is Verdict.DENY  # the target's number
    assert ask(snapshot, EGRESS, FRONT, 17, 80, compiler).verdict is Verdict.DENY
    mixed = replace(snapshot, pods=snapshot.pods.set(TWO.uid, replace(TWO, labels=())))
    delta = compiler.update(mixed, between(snapshot, mixed))
    assert compiler.want.assignments[TASK.uid].ruleset in delta.revoked
    said = ask(mixed, EGRESS, FRONT, 6, 80, compiler)
    assert (said.verdict, said.reason) == (Verdict.DENY, DropReason.NO_RULE)
    assert said.note == "of 2 ready endpoints behind 10.96.0.1:80, not allowed are 10.0.0.3:8080"
    nobody = replace(snapshot, slices=Map())
    compiler.update(nobody, between(mixed, nobody))
    assert ask(nobody, EGRESS, FRONT, 6, 80, compiler).verdict is Verdict.DENY


@pytest.mark.parametrize("name", ["http", "ghost"])
def test_a_named_port_is_the_endpoints_behind_a_service(name: str) -> None:
    rule = replace(TO_WEB, ports=(PortMatch(6, name="http"),))
    ports = (ContainerPort(name, 6, 8080),)
    snapshot = served(cluster((rule,), None, TASK, replace(ONE, ports=ports), replace(TWO, ports=ports)))
    wanted = Verdict.ALLOW if name == "http" else Verdict.DENY
    assert ask(snapshot, EGRESS, FRONT).verdict is wanted
    assert ask(snapshot, EGRESS, ONE.addresses[0], 6, 8080).verdict is wanted


def test_a_pod_may_always_talk_to_itself() -> None:
    """In this layer too (P7)."""
    assert ask(cluster((TO_WEB,)), EGRESS, TASK.addresses[0], 6, 8080).verdict is Verdict.ALLOW
