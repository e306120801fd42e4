"""A third kind of policies fits: tiers, priorities and Pass, as Kubernetes' ClusterNetworkPolicy has them.

What stands here is all that such a kind takes: one answer to PolicyLayer for the compiler, one JudgedLayer for the
judge. Tiers before dagwall's own are final where they allow; the last one is asked where nobody else has a rule.
"""

# ruff: noqa: ARG002  a protocol names all of its arguments

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from random import Random

import pytest
from immutables import Map

from agent.compiler.compiler import Compiler
from agent.compiler.layers import Hits, Layer, LayerKind, LoweredRule, Outcome, Part, Side
from agent.compiler.lookup import lookup
from agent.compiler.native import NativePolicies
from agent.compiler.own import OwnPolicies
from agent.compiler.ownports import OwnPorts, PortName
from agent.compiler.policy_layer import LayerOf
from agent.compiler.terms import Lowering, Term
from agent.judge.judge import LAYERS, Case, Decision, JudgedLayer, judge
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.identity import Attestation, Claim, Identity, Kind, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Rule, RuleRef, Subject
from agent.model.verdict import Direction, DropReason, Verdict

NETWORKS = tuple(map(ip_network, ("0.0.0.0/0", "8.8.0.0/16", "8.8.8.8/32", "9.0.0.0/8")))
ADDRESSES = tuple(map(ip_address, ("8.8.8.8", "8.8.1.1", "9.1.1.1", "1.1.1.1")))
PORTS = (80, 443, 5432)
CLAIM = Claim(Identity("c", "etl", "sa", "dag", "t", Kind.KUBERNETES_EXECUTOR), ())
POD = Pod(PodUid("a"), "etl", "a", CLAIM, node="n")


@dataclass(frozen=True)
class TierRule:
    """Of one tier; the lower `priority` is asked first, and the first that matches decides."""

    name: str
    priority: int
    action: str  # Allow, Deny, Pass
    rule: Rule


def ref(tier: str, rule: TierRule) -> RuleRef:
    return RuleRef(PolicyRef("", tier, "toy"), rule.name)


# -- for the compiler


def by_rank(hits: Hits, port: int, audited: bool) -> Outcome:
    first = hits.first(Part.RANKED, port, audited)
    action = first.rule.action if first is not None else "Pass"
    if first is None or action == "Pass":
        return Outcome(Verdict.ALLOW, DropReason.NONE, hits.kind.default)
    if action == "Deny":
        return Outcome(Verdict.DENY, DropReason.DENY_RULE, first.rule.ref)
    return Outcome(Verdict.ALLOW, DropReason.NONE, first.rule.ref, final=True)


class Tier:
    """One tier as a PolicyLayer, which needs few of its arguments."""

    judges_backends = False

    def __init__(self, name: str, rules: list[TierRule], lowering: Lowering, *, last_resort: bool) -> None:
        self.kind = LayerKind(name, by_rank, last_resort=last_resort)
        ranked = sorted(rules, key=lambda each: each.priority)
        self.rules = [
            (each, LoweredRule(ref(name, each), True, lowering.rule(each.rule), each.action)) for each in ranked
        ]

    def terms(self) -> Iterator[Term]:
        return (term for _, lowered in self.rules for term in lowered.terms)

    def select(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> bool:
        return bool(self.rules)

    def refs(self, selected: bool) -> tuple[PolicyRef, ...]:
        return ()

    def terms_of(self, selected: bool) -> Iterator[tuple[PolicyRef, int]]:
        return iter(())

    def own_ports(self, selected: bool) -> Iterator[PortName]:
        return iter(())

    def grants_raw_sockets(self, selected: bool) -> bool:
        return False

    def layers(self, selected: bool, own: OwnPorts, namespace: Namespace) -> tuple[Layer, ...]:
        egress, ingress = (
            Side(ranked=tuple(lowered for each, lowered in self.rules if each.rule.direction is direction))
            for direction in Direction
        )
        return (Layer(self.kind, egress, ingress),) if selected else ()


def tier(name: str, rules: list[TierRule], *, last_resort: bool = False) -> LayerOf:
    return lambda _, lowering: Tier(name, rules, lowering, last_resort=last_resort)


# -- for the judge


def judged(name: str, rules: list[TierRule], *, last_resort: bool = False) -> JudgedLayer:
    def decide(case: Case, audited: bool) -> Decision:
        for each in sorted(rules, key=lambda each: each.priority):
            if each.rule.direction is case.direction and case.allows(each.rule):
                if each.action == "Pass":
                    break
                if each.action == "Deny":
                    return Decision(Verdict.DENY, DropReason.DENY_RULE, ref(name, each), layer=name)
                return Decision(Verdict.ALLOW, rule=ref(name, each), final=True)
        return Decision(Verdict.ALLOW)

    return JudgedLayer(name, decide, last_resort)


# -- both, on random tiers


def tier_rule(r: Random, i: int) -> TierRule:
    ports = r.choice((None, (PortMatch(6, r.choice(PORTS)),)))
    rule = Rule(f"r{i}", Direction.EGRESS, (CidrPeer(r.choice(NETWORKS)),), ports)
    return TierRule(f"r{i}", r.randrange(100), r.choice(("Allow", "Deny", "Pass")), rule)


def own_policy(r: Random) -> Policy:
    rules = [Rule("r", Direction.EGRESS, (CidrPeer(r.choice(NETWORKS)),), (PortMatch(6, r.choice(PORTS)),))]
    deny = tuple(rules) if r.random() < 0.3 else ()
    return Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject(), None if deny else tuple(rules), deny=deny)


def snapshot(*policies: Policy) -> Cluster:
    return Cluster(
        complete=True,
        pods=Map({POD.uid: POD}),
        namespaces=Map({"etl": Namespace("etl", managed=True)}),
        policies=Map({policy.ref: policy for policy in policies}),
        settings=Settings(node="n", baseline=()),
    )


@pytest.mark.parametrize("seed", range(60))
def test_three_tiers_are_decided_alike_by_compiler_and_judge(seed: int) -> None:
    r = Random(seed)
    tiers = [[tier_rule(r, i) for i in range(r.randrange(4))] for _ in range(3)]
    names = ("admin", "network", "baseline")
    cluster = snapshot(*([own_policy(r)] if r.random() < 0.6 else []))
    ours: tuple[LayerOf, ...] = (OwnPolicies, NativePolicies)
    made = [tier(n, rules, last_resort=n == "baseline") for n, rules in zip(names, tiers, strict=True)]
    compiler = Compiler(layers=(*made[:2], *ours, made[2]))
    compiler.update(cluster)
    told = [judged(n, rules, last_resort=n == "baseline") for n, rules in zip(names, tiers, strict=True)]
    for address in ADDRESSES:
        for port in (*PORTS, 1):
            got = lookup(compiler.want, POD.uid, Direction.EGRESS, address, 6, port)
            layers = (*told[:2], *LAYERS, told[2])
            should = judge(cluster, POD, Direction.EGRESS, address, 6, port, layers)
            named = compiler.rule_refs.get(got.rule)
            assert (got.verdict, named) == (should.verdict, should.rule), (address, port, tiers)


def decided(tiers: tuple[LayerOf, ...], cluster: Cluster) -> tuple[Verdict, str]:
    compiler = Compiler(layers=tiers)
    compiler.update(cluster)
    got = lookup(compiler.want, POD.uid, Direction.EGRESS, ip_address("8.8.8.8"), 6, 443)
    return got.verdict, str(compiler.rule_refs.get(got.rule))


def to_8(action: str, priority: int = 1) -> TierRule:
    peers = (CidrPeer(ip_network("8.8.8.8/32")),)
    return TierRule(action, priority, action, Rule(action, Direction.EGRESS, peers, None))


def test_an_admin_s_allow_is_final_a_pass_is_not_and_a_baseline_is_asked_last() -> None:
    closed = snapshot(Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject(), egress=()))
    assert decided((tier("admin", [to_8("Allow")]), OwnPolicies), closed) == (Verdict.ALLOW, "admin/toy/Allow")
    passed = tier("admin", [to_8("Pass"), to_8("Allow", 2)])
    assert decided((passed, OwnPolicies), closed) == (Verdict.DENY, "None")
    open_ = snapshot()
    last = tier("baseline", [to_8("Deny")], last_resort=True)
    assert decided((passed, OwnPolicies, last), open_) == (Verdict.DENY, "baseline/toy/Deny")
    allows = Rule("r", Direction.EGRESS, (CidrPeer(ip_network("8.0.0.0/8")),), None)
    spoken = snapshot(Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject(), egress=(allows,)))
    assert decided((passed, OwnPolicies, last), spoken) == (Verdict.ALLOW, "TaskNetworkPolicy/etl/p/r")
