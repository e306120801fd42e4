"""What the judge tells besides the verdict: matching rules, and the nearest rule with what it lacks (R1)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from immutables import Map

from agent.judge.judge import Decision, judge
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Attestation, Claim, Identity, Kind, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Posture, Rule, RuleRef, Subject
from agent.model.verdict import Direction, DropReason, Verdict
from agent.outputs.words import nearest_text

REF = PolicyRef("etl", "TaskNetworkPolicy", "p")
POD = Pod(PodUid("u"), "etl", "p", Claim(Identity("c", "etl", "sa", "d", "t", Kind.OTHER), ()))
HTTPS = (PortMatch(6, 443),)


def allow(cidr: str, ports: tuple[PortMatch, ...] | None = HTTPS, name: str = "r") -> Rule:
    return Rule(name, Direction.EGRESS, (CidrPeer(ip_network(cidr)),), ports)


def ask(policy: Policy, address: str = "8.8.8.8", port: int = 443) -> Decision:
    cluster = Cluster(
        pods=Map({POD.uid: POD}), namespaces=Map({"etl": Namespace("etl", managed=True)}), policies=Map({REF: policy})
    )
    return judge(cluster, POD, Direction.EGRESS, ip_address(address), 6, port)


EXCEPT = replace(
    allow("8.0.0.0/8", name="s"), peers=(CidrPeer(ip_network("8.0.0.0/8"), (ip_network("8.8.0.0/16"),)),)
)


@pytest.mark.parametrize(
    ("rules", "port", "nearest"),
    [
        ((allow("8.8.8.8/32"),), 80, "p/r lacks port 80/TCP"),
        ((allow("9.9.9.9/32"),), 443, ""),
        ((allow("9.9.9.9/32"), allow("9.0.0.0/8")), 80, ""),
        ((EXCEPT,), 443, "p/s lacks peer 8.8.8.8, which its `except` leaves out"),
        ((allow("9.9.9.9/32"), EXCEPT), 80,
         "p/s lacks port 80/TCP and peer 8.8.8.8, which its `except` leaves out"),
        ((allow("9.9.9.9/32"), allow("8.8.0.0/16", name="s")), 80, "p/s lacks port 80/TCP"),
        ((), 443, ""),
    ],
)  # fmt: skip
def test_nearest(rules: tuple[Rule, ...], port: int, nearest: str) -> None:
    decision = ask(Policy(REF, Subject(), egress=rules), port=port)
    assert (decision.verdict, decision.reason, decision.rule) == (Verdict.DENY, DropReason.NO_RULE, None)
    assert nearest_text(decision.nearest) == nearest


def test_attestation_is_what_lacks() -> None:
    policy = Policy(REF, Subject(), egress=(allow("8.8.8.8/32"),), attestation=Attestation.BOUND)
    assert nearest_text(ask(policy).nearest) == "p/r lacks attestation bound"


def test_every_matching_rule_is_listed() -> None:
    deny = replace(allow("8.8.8.0/24", name="no"))
    decision = ask(Policy(REF, Subject(), egress=(allow("8.8.8.8/32"), allow("0.0.0.0/0", name="s")), deny=(deny,)))
    assert decision.verdict is Verdict.DENY
    assert decision.denying == (RuleRef(REF, "no"),)
    assert decision.allowing == (RuleRef(REF, "r"), RuleRef(REF, "s"))
    assert decision.nearest is None, "no allow rule helps against a deny rule"


def test_audit_names_the_denial() -> None:
    decision = ask(Policy(REF, Subject(), egress=(), posture=Posture.AUDIT))
    assert (decision.verdict, decision.reason) == (Verdict.AUDIT, DropReason.NO_RULE)


def test_an_unmanaged_pod_is_not_judged() -> None:
    cluster = Cluster(pods=Map({POD.uid: POD}), policies=Map({REF: Policy(REF, Subject(), egress=())}))
    assert judge(cluster, POD, Direction.EGRESS, ip_address("8.8.8.8"), 6, 1) == Decision(Verdict.ALLOW)
