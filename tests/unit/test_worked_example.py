"""The worked example of ARCHITECTURE.md: this pod, this policy, these packets; which rows, which probes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from immutables import Map

from agent.compiler.compiler import whole
from agent.compiler.lookup import classes_of, lookup
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Rule, Subject
from agent.model.verdict import Direction, DropReason, Verdict
from agent.model.want import PORT_BITS, RuleKey, Want, port_index

POD = Pod(PodUid("u"), "etl", "charge", Claim(Identity("c", "etl", "worker", "payments", "charge", Kind.OTHER), ()))
BANK = Rule("bank", Direction.EGRESS, (CidrPeer(ip_network("203.0.113.0/24")),), (PortMatch(6, 443),))
POLICY = Policy(PolicyRef("etl", "TaskNetworkPolicy", "q"), Subject(), egress=(BANK,))
INSIDE, OUTSIDE = ip_address("203.0.113.9"), ip_address("198.51.100.7")


def compiled() -> Want:
    return whole(
        Cluster(
            pods=Map({POD.uid: POD}),
            namespaces=Map({"etl": Namespace("etl", managed=True)}),
            policies=Map({POLICY.ref: POLICY}),
        )
    )


def test_one_row_allows_what_the_rule_names() -> None:
    want = compiled()
    inside, https = classes_of(want, INSIDE), (port_index(6, 443), PORT_BITS)
    row = RuleKey(want.assignments[POD.uid].ruleset, inside.peer, Direction.EGRESS, https)
    assert want.rules[row].verdict is Verdict.ALLOW
    assert [key for key in want.rules if key.peer_class == inside.peer] == [row]
    assert lookup(want, POD.uid, Direction.EGRESS, INSIDE, 6, 443).verdict is Verdict.ALLOW


def test_another_port_and_another_address_find_no_row_and_get_the_default() -> None:
    want = compiled()
    inside, outside = classes_of(want, INSIDE), classes_of(want, OUTSIDE)
    assert inside.peer != inside.base == outside.base == outside.peer
    default = want.rulesets[want.assignments[POD.uid].ruleset].defaults[Direction.EGRESS]
    assert (default.verdict, default.reason) == (Verdict.DENY, DropReason.NO_RULE)
    for address, port in ((INSIDE, 80), (OUTSIDE, 443)):
        assert lookup(want, POD.uid, Direction.EGRESS, address, 6, port) == default
