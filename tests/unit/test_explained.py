"""Why calls failed: what is folded, what comes first, both ends, and a next step that helps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
import yaml
from immutables import Map

from agent.judge.judge import judge
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.flow import FailedLookup, PeerKind, PeerName, Tuple
from agent.model.identity import Attestation, Claim, PodUid
from agent.model.nearest import Lacks, Nearest
from agent.model.policy import CidrPeer, DefaultPosture, Policy, PolicyRef, PortMatch, Rule, Subject
from agent.model.verdict import Direction, DropReason, Hook, Verdict
from agent.outputs.advice import advice, rule_text
from agent.outputs.explained import explanations
from agent.outputs.explanation import Explanation, Failed, Step, Weight
from agent.outputs.records import Filter
from agent.outputs.why import why_of
from agent.parse.fields import Field
from agent.parse.policies import parse_policy
from tests.unit.seen import WAREHOUSE, denial, endpoint

NETWORK = CidrPeer(ip_network("192.0.2.0/24"))
ALLOW = Rule("warehouse", Direction.EGRESS, (NETWORK,), (PortMatch(6, 443),))
POLICY = Policy(WAREHOUSE.policy, Subject(), egress=(ALLOW,))
OWN = Pod(PodUid("uid-1"), "airflow", "finance-load-x1", Claim(endpoint().identity, ()),
          addresses=(ip_address("10.0.0.7"),))  # fmt: skip
PEER = Pod(PodUid("uid-9"), "airflow", "sales-x1", Claim(endpoint("sales", "extract").identity, ()),
           addresses=(ip_address("10.0.0.9"),))  # fmt: skip
RESOLVER = PeerName(PeerKind.SERVICE, "kube-system/kube-dns")
ALL = Filter()


def cluster(*policies: Policy, pods: Iterable[Pod] = (OWN, PEER)) -> Cluster:
    return Cluster(
        complete=True,
        settings=Settings(pod_ranges=(ip_network("10.0.0.0/16"),)),
        pods=Map({pod.uid: pod for pod in pods}),
        namespaces=Map({"airflow": Namespace("airflow", managed=True)}),
        policies=Map({policy.ref: policy for policy in policies}),
    )


def lookup(name: str, *, time: float = 1.0, rcode: str = "NXDOMAIN", record: str = "A") -> FailedLookup:
    server = Tuple(ip_address("10.96.0.10"), 17, 53, Direction.EGRESS)
    return FailedLookup(time, endpoint(), server, RESOLVER, name, record, rcode)


def explained(*failed: Failed, of: Cluster | None = None, wanted: Filter = ALL) -> tuple[Explanation, ...]:
    return explanations(failed, wanted, of or cluster(POLICY), 100)


def test_equal_failures_are_one_with_a_count_and_a_span() -> None:
    found = explained(denial(time=9), denial(time=7), denial(time=3), denial(time=4, address="192.0.2.8"))
    assert [(each.events, each.first, each.last) for each in found] == [(3, 3, 9), (1, 4, 4)]


def test_the_most_important_comes_first() -> None:
    """Denied now, then what failed, then what the policies of now allow, then audits, then search domains."""
    allowed_by_now = replace(denial(time=8), tuple=replace(denial().tuple, service_port=443))
    found = explained(
        lookup("db.airflow.svc.cluster.local", time=10), denial(time=9, verdict=Verdict.AUDIT), allowed_by_now,
        lookup("db.example", time=5), denial(time=1),
    )  # fmt: skip
    assert [each.weight for each in found] == list(Weight)
    assert found[2].steps == (Step.RETRY,)
    assert "the policies of now allow it, by finance-egress/warehouse" in why_of(found[2]).notes


def test_one_question_that_a_resolver_asks_four_times_is_one_failure() -> None:
    name = "warehouse.db"
    asked = (f"{name}.airflow.svc.cluster.local", f"{name}.svc.cluster.local", f"{name}.cluster.local", name)
    (found,) = explained(*(lookup(each, record=record) for each in asked for record in ("A", "AAAA")))
    assert isinstance(found.newest, FailedLookup)
    assert (found.newest.name, found.events, found.weight) == (name, 8, Weight.FAILED)
    assert why_of(found).text == "not found: warehouse.db: kube-system/kube-dns (10.96.0.10) answered NXDOMAIN"


def test_a_name_that_was_written_whole_is_no_search_domain() -> None:
    whole = "pg.airflow.svc.cluster.local"
    asked = (f"{whole}.airflow.svc.cluster.local", f"{whole}.svc.cluster.local", f"{whole}.cluster.local", whole)
    (found,) = explained(*map(lookup, asked))
    assert isinstance(found.newest, FailedLookup)
    assert (found.newest.name, found.weight) == (whole, Weight.FAILED)


def test_both_ends_are_told_where_both_are_ours() -> None:
    """P14"""
    closed = Policy(PolicyRef("airflow", "TaskNetworkPolicy", "sales-in"), Subject(dag_ids=("sales",)), ingress=())
    outgoing = replace(POLICY, subject=Subject(dag_ids=("finance",)))
    seen = denial(address="10.0.0.9")
    (found,) = explained(seen, of=cluster(outgoing, closed))
    why = why_of(found)
    assert [(end["pod"], end["verdict"]) for end in why.other_ends] == [("sales-x1", "deny")]
    assert "the other end, pod airflow/sales-x1, denies it too: no rule lets it in" in why.notes
    assert Step.ADD_RULE_THERE in found.steps
    (found,) = explained(seen, of=cluster(outgoing))
    assert "the other end, pod airflow/sales-x1, lets it in" in why_of(found).notes
    assert Step.ADD_RULE_THERE not in found.steps


def test_what_only_the_other_end_denies_now_is_not_allowed_by_now() -> None:
    closed = Policy(PolicyRef("airflow", "TaskNetworkPolicy", "sales-in"), Subject(dag_ids=("sales",)), ingress=())
    (found,) = explained(denial(address="10.0.0.9"), of=cluster(closed))
    assert found.now is not None
    assert (found.now.verdict, found.weight) == (Verdict.ALLOW, Weight.DENIED)


def test_which_policies_isolate_is_told_and_that_none_does() -> None:
    (found,) = explained(denial())
    assert why_of(found).isolating == ("TaskNetworkPolicy/airflow/finance-egress",)
    assert why_of(found).notes[0] == "isolated by TaskNetworkPolicy/airflow/finance-egress"
    denies = Namespace("airflow", managed=True, default_posture=DefaultPosture.DENY)
    (found,) = explained(denial(), of=replace(cluster(), namespaces=Map({"airflow": denies})))
    assert why_of(found).notes[0] == ("no policy selects the pod for this direction: its namespace denies by default")


def test_a_pod_that_has_gone_is_explained_by_what_was_reported() -> None:
    (found,) = explained(denial(), of=cluster(POLICY, pods=()))
    assert (found.now, found.others, found.weight) == (None, (), Weight.DENIED)
    assert "lacks port 5432/TCP" in why_of(found).text


@pytest.mark.parametrize("reason", DropReason)
@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.AUDIT])
def test_each_reason_has_a_next_step_in_words(reason: DropReason, verdict: Verdict) -> None:
    seen = denial(reason=reason, verdict=verdict)
    for each in (seen, replace(seen, nearest=None), replace(seen, hook=Hook.SOCK_CREATE)):
        (found,) = explained(each)
        assert found.steps
        assert all(why_of(found).next)


LACKS = {
    Step.BIND: Lacks(attestation=Attestation.BOUND), Step.EXACT_ID: Lacks(exact_id=True),
    Step.ENFORCE: Lacks(enforcement=True), Step.ADD_PORT: Lacks(protocol=6, port=5432),
    Step.NAME_METADATA: Lacks(metadata=True), Step.LEAVE_IN: Lacks(left_out=ip_address("192.0.2.9")),
}  # fmt: skip


@pytest.mark.parametrize("step", LACKS)
def test_what_the_nearest_rule_lacks_is_the_next_step(step: Step) -> None:
    (found,) = explained(replace(denial(), nearest=Nearest(WAREHOUSE, LACKS[step])))
    assert found.steps == (step,)
    assert "finance-egress/warehouse" in advice(found, step)


PEERS = {
    "fqdn": (PeerName(PeerKind.FQDN, "api.example.com"), "203.0.113.9", 6, 443),
    "world": (PeerName(PeerKind.ENTITY, "world"), "203.0.113.9", 6, 443),
    "world, IPv6": (PeerName(PeerKind.ENTITY, "world"), "2001:db8::9", 17, 53),
    "a task": (PeerName(PeerKind.POD, "airflow/sales/extract", endpoint("sales", "extract").identity, "sales-x1"),
               "10.0.0.9", 6, 5432),
    "ICMP": (PeerName(PeerKind.CIDR, "203.0.113.0/24"), "203.0.113.9", 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("which", PEERS)
def test_the_rule_that_is_proposed_allows_it(which: str) -> None:
    peer, address, protocol, port = PEERS[which]
    seen = replace(
        denial(), peer=peer, tuple=Tuple(ip_address(address), protocol, port, Direction.EGRESS), nearest=None
    )
    (found,) = explained(seen)
    assert found.steps[0] is Step.ADD_RULE
    assert rule_text(seen) in advice(found, Step.ADD_RULE)
    written = {"apiVersion": "dagwall.io/v1alpha1", "kind": "TaskNetworkPolicy",
               "metadata": {"name": "proposed", "namespace": "airflow"},
               "spec": {"egress": [yaml.safe_load(rule_text(seen))]}}  # fmt: skip
    proposed = parse_policy(Field("TaskNetworkPolicy/airflow/proposed", "", written))
    names = frozenset({peer.name} if peer.kind is PeerKind.FQDN else ())
    at = (Direction.EGRESS, ip_address(address), protocol, port)
    assert judge(cluster(POLICY), OWN, *at, names=names).verdict is Verdict.DENY
    assert judge(cluster(POLICY, proposed), OWN, *at, names=names).verdict is Verdict.ALLOW


def test_names_that_yaml_would_read_as_something_else_are_quoted() -> None:
    for name in ("no", "1.5", "0x1", "null"):
        seen = replace(denial(), peer=PeerName(PeerKind.POD, name, endpoint(name, "t").identity, "p"), nearest=None)
        assert f'dagIds: ["{name}"]' in rule_text(seen)


def test_of_a_denial_at_the_peer_the_caller_is_named() -> None:
    """P14"""
    caller = PeerName(PeerKind.POD, "airflow/sales/extract", endpoint("sales", "extract").identity, "sales-x1")
    refused = replace(denial(direction=Direction.INGRESS), peer=caller, nearest=None)
    (found,) = explained(refused, wanted=Filter(dag="sales"))
    assert (why_of(found).dag_id, why_of(found).end, why_of(found).pid) == ("sales", "other", 0)


def test_failures_of_a_run() -> None:
    assert Filter(run="manual__*").matches(denial())
    assert not Filter(run="scheduled__*").matches(denial())
    assert Filter(run="manual__1").matches(lookup("x.example"))
