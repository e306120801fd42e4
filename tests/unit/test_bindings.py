"""TaskIdentityBinding: parsing, and what it makes of pods (I4, I5)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from immutables import Map

from agent.compiler.compiler import Compiler, whole
from agent.compiler.lookup import lookup
from agent.errors import InvalidObject
from agent.judge.judge import judge
from agent.model.binding import ExclusiveScope, TaskIdentityBinding
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.identity import Attestation, Claim, Identity, Kind, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, Posture, Rule, Subject
from agent.model.verdict import Direction, DropReason, EndpointState, Verdict
from agent.model.want import Assignment
from agent.parse.objects import parse_object

FINANCE = TaskIdentityBinding("finance", "etl", ("finance",), ("finance_*",), posture=Posture.ENFORCE)
REF = PolicyRef("etl", "TaskNetworkPolicy", "p")
WORLD = Rule("world", Direction.EGRESS, (CidrPeer(ip_network("0.0.0.0/0")),), None)
BOUND_ONLY = Policy(REF, Subject(), egress=(WORLD,), attestation=Attestation.BOUND)
SITE, LOOPBACK = ip_address("8.8.8.8"), ip_address("127.0.0.1")


def pod(dag: str, account: str = "finance") -> Pod:
    identity = Identity("c", "etl", account, dag, "load" if dag else "", Kind.KUBERNETES_EXECUTOR)
    return Pod(PodUid(f"{account}-{dag}"), "etl", "p", Claim(identity, ()))


def cluster(one: Pod, *bindings: TaskIdentityBinding, **settings: Any) -> Cluster:
    return Cluster(
        pods=Map({one.uid: one}),
        namespaces=Map({"etl": Namespace("etl", managed=True)}),
        policies=Map({REF: BOUND_ONLY}),
        bindings=Map({binding.name: binding for binding in bindings}),
        settings=Settings(cluster="c", baseline=(), **settings),
    )


def assigned(one: Pod, *bindings: TaskIdentityBinding, **settings: Any) -> Assignment:
    """With the judge's agreement on a destination that only bound claims reach."""
    snapshot = cluster(one, *bindings, **settings)
    want = whole(snapshot)
    for address in (SITE, LOOPBACK):
        said = judge(snapshot, one, Direction.EGRESS, address, 6, 443)
        found = lookup(want, one.uid, Direction.EGRESS, address, 6, 443)
        assert (found.verdict, found.reason) == (said.verdict, said.reason)
    return want.assignments[one.uid]


def parsed(**spec: Any) -> Any:
    spec = {"namespace": "etl", "serviceAccounts": ["finance"], "dagIds": ["finance_*"], **spec}
    metadata = {"name": "finance"}
    return parse_object(
        {"apiVersion": "dagwall.io/v1alpha1", "kind": "TaskIdentityBinding", "metadata": metadata, "spec": spec}
    )


def test_parse() -> None:
    assert parsed() == replace(FINANCE, posture=Posture.AUDIT)
    full = parsed(taskIds=["load"], exclusive=True, exclusiveScope="cluster", posture="enforce")
    wanted = replace(FINANCE, task_ids=("load",), exclusive=True, exclusive_scope=ExclusiveScope.CLUSTER)
    assert full == wanted


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"namespace": None}, "spec.namespace"),
        ({"serviceAccounts": []}, "spec.serviceAccounts"),
        ({"dagIds": None}, "spec.dagIds"),
        ({"dagIds": []}, "spec.dagIds"),
        ({"posture": "strict"}, "spec.posture"),
        ({"exclusiveScope": "cluster"}, "spec.exclusiveScope"),
        ({"exclusive": True, "exclusiveScope": "node"}, "spec.exclusiveScope"),
        ({"dags": []}, "spec"),
    ],
)
def test_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidObject) as caught:
        parsed(**spec)
    assert (caught.value.obj, caught.value.field) == ("TaskIdentityBinding/finance", field)


def test_a_claim_that_a_binding_allows_is_bound() -> None:
    found = assigned(pod("finance_daily"), FINANCE)
    assert (found.state, found.attestation, found.binding) == (EndpointState.MANAGED, Attestation.BOUND, "finance")
    assert assigned(pod("finance_daily")).attestation is Attestation.CLAIMED


def test_a_claim_that_none_allows_is_quarantined() -> None:
    found = assigned(pod("sales"), FINANCE)
    assert (found.state, found.binding, found.ruleset) == (EndpointState.QUARANTINED, "finance", 0)
    assert (
        str(found.contradiction)
        == "etl/finance claims sales/load, which TaskIdentityBinding/finance does not allow it"
    )
    snapshot = cluster(pod("sales"), FINANCE)
    said = judge(snapshot, pod("sales"), Direction.EGRESS, SITE, 6, 443)
    assert (said.verdict, said.reason, said.note) == (
        Verdict.DENY,
        DropReason.QUARANTINED,
        str(found.contradiction),
    )


def test_one_binding_that_allows_it_is_enough() -> None:
    sales = replace(FINANCE, name="sales", dag_ids=("sales",), posture=Posture.AUDIT)
    assert assigned(pod("sales"), FINANCE, sales).state is EndpointState.MANAGED


def test_exclusive_is_about_the_namespace_unless_it_says_cluster() -> None:
    """I5: the same DAG's name in two namespaces is two DAGs."""
    here = replace(FINANCE, exclusive=True)
    there = replace(here, name="theirs", namespace="other")
    assert assigned(pod("finance_daily"), here, there).state is EndpointState.MANAGED
    assert assigned(pod("finance_daily", "default"), there).state is EndpointState.MANAGED
    wide = replace(there, exclusive_scope=ExclusiveScope.CLUSTER)
    found = assigned(pod("finance_daily", "default"), wide)
    assert (found.state, found.binding) == (EndpointState.QUARANTINED, "theirs")
    assert found.contradiction is not None
    assert found.contradiction.keeps


def test_what_one_binding_vouches_for_no_other_contradicts() -> None:
    """I5: two exclusive bindings that overlap quarantined both accounts."""
    both = [
        replace(FINANCE, exclusive=True),
        replace(FINANCE, name="second", service_accounts=("ledger",), dag_ids=("finance_daily",), exclusive=True),
        replace(FINANCE, name="third", dag_ids=("sales",)),
    ]
    for account in ("finance", "ledger"):
        found = assigned(pod("finance_daily", account), *both)
        assert (found.state, found.contradiction) == (EndpointState.MANAGED, None)
    assert assigned(pod("finance_daily", "default"), *both).state is EndpointState.QUARANTINED


def test_exclusive_ids_are_nobody_elses() -> None:
    exclusive = replace(FINANCE, exclusive=True)
    found = assigned(pod("finance_daily", "default"), exclusive)
    assert found.state is EndpointState.QUARANTINED
    assert str(found.contradiction).endswith("TaskIdentityBinding/finance keeps for others")
    assert assigned(pod("finance_daily", "default"), FINANCE).state is EndpointState.MANAGED
    assert assigned(pod("sales", "default"), exclusive).state is EndpointState.MANAGED


def test_audit_reports_only() -> None:
    for found in (
        assigned(pod("sales"), replace(FINANCE, posture=Posture.AUDIT)),
        assigned(pod("sales"), FINANCE, audit_everything=True),
    ):
        assert (found.state, found.attestation) == (EndpointState.MANAGED, Attestation.CLAIMED)
        assert found.contradiction


def test_who_claims_no_dag_contradicts_nothing() -> None:
    found = assigned(pod(""), FINANCE)
    assert (found.state, found.attestation, found.contradiction) == (
        EndpointState.MANAGED,
        Attestation.CLAIMED,
        None,
    )


def test_a_binding_that_changes_reevaluates_running_pods() -> None:
    one, compiler = pod("sales"), Compiler()
    snapshot = cluster(one)
    compiler.update(snapshot)
    states = []
    for bindings in ({"finance": FINANCE}, {"finance": replace(FINANCE, dag_ids=("*",))}, {}):
        delta = compiler.update(replace(snapshot, bindings=Map(bindings)))
        assert list(delta.assignments) == [one.uid]
        states.append((compiler.want.assignments[one.uid].state, compiler.want.assignments[one.uid].attestation))
    assert states == [
        (EndpointState.QUARANTINED, Attestation.CLAIMED),
        (EndpointState.MANAGED, Attestation.BOUND),
        (EndpointState.MANAGED, Attestation.CLAIMED),
    ]
