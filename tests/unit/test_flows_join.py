"""Records joined with names: who, whom, why; endpoints that have gone; sockets of others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import dns.message
import dns.rcode
import dns.rrset
import pytest
from immutables import Map

from agent.flows.account import Growth
from agent.flows.decode import RawAnswer, RawEvent, RawFlow
from agent.flows.join import STRANGER, Context, Joiner, NearestRules
from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.flow import EndpointFacts, FlowCounts, PeerKind, PeerName, RuleMatch, Tuple
from agent.model.identity import Claim, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Posture, Rule, RuleRef, Subject
from agent.model.verdict import Direction, DropReason, EventKind, Hook, Verdict
from agent.model.want import RuleId
from agent.outputs.words import nearest_text, sentence
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
    made = Joiner(name_of, lambda: 0.0)
    made.learn(context.by_slot)
    return made


def test_a_flow_has_names() -> None:
    got = joiner().flow(growth(), CONTEXT, 12.5)
    assert (got.endpoint, got.peer.name, got.time, got.new) == (FACTS, "world", 12.5, True)
    assert str(got.rule) == "TaskNetworkPolicy/airflow/finance-egress/warehouse"


@pytest.mark.parametrize(
    ("peers", "ports", "match"),
    [
        (True, (PortMatch(6, 443),), RuleMatch.PEER_AND_PORT), (True, None, RuleMatch.PEER),
        (False, (PortMatch(6, name="https"),), RuleMatch.PORT), (False, None, RuleMatch.ALL),
        (True, (PortMatch(6),), RuleMatch.PEER_AND_PROTOCOL), (False, (PortMatch(6),), RuleMatch.PROTOCOL),
    ],
)  # fmt: skip
def test_what_a_rule_looks_at(peers: bool, ports: tuple[PortMatch, ...] | None, match: RuleMatch) -> None:
    rule = replace(RULE, peers=RULE.peers if peers else None, ports=ports)
    policy = replace(POLICY, egress=None, deny=(rule,))
    context = replace(CONTEXT, cluster=replace(CLUSTER, policies=Map({policy.ref: policy})))
    assert joiner().denial(replace(EVENT, rule=7), context, 1).match is match
    assert joiner().denial(EVENT, context, 1).match is RuleMatch.NONE


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


ANSWER = replace(EVENT, kind=EventKind.DNS_ANSWER, peer=ip_address("10.96.0.10"), service_port=53, protocol=17)


def answered(name: str, address: str) -> bytes:
    made = dns.message.make_response(dns.message.make_query(name, "A"))
    made.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", address))
    return made.to_wire()


def test_an_address_of_the_world_has_the_name_that_its_endpoint_asked_for() -> None:
    made = joiner()
    made.answer(RawAnswer(ANSWER, answered("api.stripe.com", "192.0.2.9")), CONTEXT, 1)
    flow, denial = made.flow(growth(), CONTEXT, 1), made.denial(EVENT, CONTEXT, 1)
    assert [(each.peer.kind, each.peer.name) for each in (flow, denial)] == [(PeerKind.FQDN, "api.stripe.com")] * 2
    assert made.flow(growth(slot=2), CONTEXT, 1).peer.name == "world", "another endpoint has not asked"


def test_what_has_a_name_of_the_cluster_keeps_it() -> None:
    made = Joiner(lambda _: PeerName(PeerKind.SERVICE, "db/postgres"), lambda: 0.0)
    made.answer(RawAnswer(ANSWER, answered("postgres.db.svc.cluster.local", "192.0.2.9")), CONTEXT, 1)
    assert made.flow(growth(), CONTEXT, 1).peer.name == "db/postgres"


def test_what_was_asked_in_vain_is_something_to_report() -> None:
    made = dns.message.make_response(dns.message.make_query("db.internal", "AAAA"))
    made.set_rcode(dns.rcode.NXDOMAIN)
    failed = joiner().answer(RawAnswer(ANSWER, made.to_wire()), CONTEXT, 9.5)
    assert failed is not None
    assert (failed.name, failed.record, failed.rcode, failed.time) == ("db.internal", "AAAA", "NXDOMAIN", 9.5)
    assert (failed.endpoint, str(failed.server.peer), failed.server.service_port) == (FACTS, "10.96.0.10", 53)


def test_nobody_knows_them() -> None:
    got = joiner().flow(growth(slot=9, identity=99, rule=1234), CONTEXT, 1)
    assert got.endpoint == EndpointFacts(STRANGER, 99, "", "", "")
    assert got.rule is None


def test_slots_of_an_earlier_agent_are_found_by_their_folder_or_number() -> None:
    """A denial waits in the ring buffer while the next agent gives other slots."""
    other_slot = replace(CONTEXT, by_slot={5: FACTS})
    assert joiner(other_slot).denial(replace(EVENT, slot=77), other_slot, 1).endpoint == FACTS
    gone = replace(CONTEXT, by_slot={}, by_cgroup={}, numbers=Map({FACTS.identity: NUMBER}))
    got = joiner(gone).denial(replace(EVENT, slot=77), gone, 1).endpoint
    assert (got.identity, got.namespace, got.pod) == (FACTS.identity, "airflow", "")
    wrong = replace(CONTEXT, by_slot={})
    assert joiner(wrong).denial(replace(EVENT, slot=77, identity=99), wrong, 1).endpoint.identity == STRANGER


def test_a_quarantined_pod_s_denial_names_the_binding() -> None:
    binding = TaskIdentityBinding("finance", "airflow", ("etl",), ("other",), posture=Posture.ENFORCE)
    context = replace(CONTEXT, cluster=replace(CLUSTER, bindings=Map({"finance": binding})))
    got = joiner().denial(replace(EVENT, reason=DropReason.QUARANTINED), context, 1)
    assert "TaskIdentityBinding/finance does not allow it: it is quarantined" in sentence(got)


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
    assert nearest_text(got.nearest) == "finance-egress/warehouse lacks port 5432/TCP"
    assert got.opened_by is None


def test_a_denial_of_a_pod_that_has_gone_has_no_nearest_rule() -> None:
    assert joiner().denial(EVENT, replace(CONTEXT, cluster=Cluster()), 3.0).nearest is None


def test_a_socket_that_another_pod_uses_names_both() -> None:
    got = joiner().denial(replace(EVENT, task_cgroup_id=4712), CONTEXT, 3.0)
    assert got.endpoint == FACTS
    assert got.opened_by == OTHER
    assert joiner().denial(replace(EVENT, task_cgroup_id=0), CONTEXT, 3.0).opened_by is None


@dataclass
class Time:
    """Each look at the clock costs `step`."""

    now: float = 0.0
    step: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_equal_denials_are_judged_once_a_snapshot() -> None:
    clock = Time(step=0.01)
    nearest = NearestRules(clock)
    said = [nearest.of(replace(EVENT, time_ns=n), FACTS, CLUSTER) for n in range(1000)]
    assert set(said) == {said[0]}
    assert said[0]
    assert (clock.now, nearest.skipped) == (0.02, 0)
    nearest.of(EVENT, FACTS, replace(CLUSTER, revision=9))
    assert clock.now == pytest.approx(0.04)


def test_a_scan_costs_its_own_reports_their_nearest_rules_and_nobody_else_s() -> None:
    """A hundred thousand answers of 95 ms each would be hours in which nobody is told anything."""
    clock = Time(step=0.095)
    nearest = NearestRules(clock)
    for port in range(1, 5000):
        nearest.of(replace(EVENT, service_port=port), FACTS, CLUSTER)
        clock.now -= clock.step  # ports are free: only the judge costs time
    assert nearest.skipped > 4900
    assert nearest.of(replace(EVENT, slot=2), FACTS, CLUSTER), "another endpoint's"
    clock.now += 60
    assert nearest.of(replace(EVENT, service_port=6000), FACTS, CLUSTER), "and its own, later"
