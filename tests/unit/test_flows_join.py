"""Records joined with names: who, whom, why; endpoints that have gone; sockets of others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from immutables import Map

from agent.flows.account import Growth
from agent.flows.decode import RawEvent, RawFlow
from agent.flows.join import STRANGER, Context, Joiner
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.flow import EndpointFacts, FlowCounts, PeerKind, PeerName, Tuple
from agent.model.identity import Claim, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Rule, RuleRef, Subject
from agent.model.verdict import Direction, DropReason, EventKind, Hook, Verdict
from agent.model.want import RuleId
from tests.unit.seen import NUMBER, endpoint

RULE = Rule("warehouse", Direction.EGRESS, (CidrPeer(ip_network("192.0.2.0/24")),), (PortMatch(6, 443),))
POLICY = Policy(PolicyRef("airflow", "TaskNetworkPolicy", "finance-egress"), Subject(), egress=(RULE,))
FACTS = endpoint()
OTHER = replace(endpoint("other", pod="other-pod"), uid="uid-2")
CLUSTER = Cluster(
    pods=Map({PodUid("uid-1"): Pod(PodUid("uid-1"), "airflow", "finance-load-x1", Claim(FACTS.identity, ()))}),
    namespaces=Map({"airflow": Namespace("airflow", managed=True)}),
    policies=Map({POLICY.ref: POLICY}),
)
CONTEXT = Context(
    CLUSTER, {1: FACTS}, {4711: FACTS, 4712: OTHER}, {RuleId(7): RuleRef(POLICY.ref, "warehouse")}, "n1"
)
TUPLE = Tuple(ip_address("192.0.2.9"), 6, 443, Direction.EGRESS)
EVENT = RawEvent(
    kind=EventKind.DENIED, hook=Hook.CONNECT, time_ns=1, cgroup_id=4711, task_cgroup_id=4711, ancestors=(1, 2),
    socket_cookie=5, peer=ip_address("192.0.2.9"), protocol=6, service_port=5432, client_port=4000,
    direction=Direction.EGRESS, verdict=Verdict.DENY, reason=DropReason.NO_RULE, rule=0, identity=NUMBER, slot=1,
    pid=9, length=60, family=0,
)  # fmt: skip


def name_of(_: object) -> PeerName:
    return PeerName(PeerKind.ENTITY, "world")


def growth(*, slot: int = 1, identity: int = NUMBER, rule: int = 7) -> Growth:
    raw = RawFlow(4711, TUPLE, 0, slot, identity, rule, Verdict.ALLOW, DropReason.NONE, 1, 2, FlowCounts(1))
    return Growth(raw, FlowCounts(1), new=True)


def joiner(context: Context = CONTEXT) -> Joiner:
    made = Joiner(name_of)
    made.learn(context.by_slot)
    return made


def test_a_flow_has_names() -> None:
    got = joiner().flow(growth(), CONTEXT, 12.5)
    assert (got.endpoint, got.peer.name, got.time, got.new) == (FACTS, "world", 12.5, True)
    assert got.rule == "TaskNetworkPolicy/airflow/finance-egress/warehouse"


def test_flows_outlive_their_pods() -> None:
    made = joiner()
    later = replace(CONTEXT, by_slot={1: replace(OTHER, number=NUMBER + 1)})
    made.learn(later.by_slot)
    assert made.flow(growth(), later, 1).endpoint == FACTS
    assert made.flow(growth(identity=NUMBER + 1), later, 1).endpoint.pod == "other-pod"


def test_the_next_pod_of_the_same_identity_takes_over() -> None:
    made = joiner()
    later = replace(CONTEXT, by_slot={1: replace(FACTS, pod="finance-load-x2")})
    made.learn(later.by_slot)
    assert made.flow(growth(), later, 1).endpoint.pod == "finance-load-x2"


def test_nobody_knows_them() -> None:
    got = joiner().flow(growth(slot=9, identity=99, rule=1234), CONTEXT, 1)
    assert got.endpoint == EndpointFacts(STRANGER, 99, "", "", "")
    assert got.rule == ""


def test_memory_of_gone_endpoints_is_bounded() -> None:
    made = joiner()
    for number in range(3):
        facts = replace(FACTS, number=number)
        made.learn(dict.fromkeys(range(number * 9000, (number + 1) * 9000), facts))
    assert made.facts(26_999, 2, CONTEXT).pod == FACTS.pod
    assert made.facts(1, 0, CONTEXT).uid == ""  # the oldest went first
    assert made.facts(1, NUMBER, CONTEXT) == FACTS, "who is here is never forgotten"


def test_a_denial_is_explained() -> None:
    got = joiner().denial(EVENT, CONTEXT, 3.0)
    assert (got.endpoint, got.tuple.service_port, got.source_port) == (FACTS, 5432, 4000)
    assert got.nearest == "TaskNetworkPolicy/airflow/finance-egress/warehouse lacks port 6/5432"
    assert got.opened_by is None


def test_a_denial_of_a_pod_that_has_gone_has_no_nearest_rule() -> None:
    assert joiner().denial(EVENT, replace(CONTEXT, cluster=Cluster()), 3.0).nearest == ""


def test_a_socket_that_another_pod_uses_names_both() -> None:
    got = joiner().denial(replace(EVENT, task_cgroup_id=4712), CONTEXT, 3.0)
    assert got.endpoint == FACTS
    assert got.opened_by == OTHER
    assert joiner().denial(replace(EVENT, task_cgroup_id=0), CONTEXT, 3.0).opened_by is None
