"""Statuses: what they say, when they are written; Leases: whose they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from immutables import Map

from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Cluster
from agent.model.policy import Policy, PolicyRef, Subject
from agent.model.validated import ValidatedPolicy
from agent.outputs.kube.lease import HOLD_SECONDS, NODE_SECONDS, Election, living, node_lease
from agent.outputs.kube.node_report import MAX_REPORT, NodeReport, digest
from agent.outputs.kube.policy_status import StatusWrites, node_report, status_of

REF = PolicyRef("airflow", "TaskNetworkPolicy", "etl")
POLICY = Policy(REF, Subject())
NAME = digest(REF)
T0, T1 = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def good(generation: int = 1, status: dict[str, Any] | None = None) -> ValidatedPolicy:
    return ValidatedPolicy(REF, generation, generation, POLICY, status=status or {})


def broken(valid: int = 1) -> ValidatedPolicy:
    return ValidatedPolicy(
        REF, 2, valid, POLICY if valid else None, "TaskNetworkPolicy/airflow/etl: spec.egress: wrong"
    )


def programmed(policy: Policy) -> Cluster:
    return Cluster(policies=Map({policy.ref: policy}))


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["type"]: each for each in status["conditions"]}


def in_force(generation: int, endpoints: int = 0, problem: str = "") -> NodeReport:
    return NodeReport({NAME: (generation, endpoints)}, problem)


def test_in_force_on_every_node() -> None:
    status = status_of(good(3), {"a": in_force(3, 2), "b": in_force(3, 5)}, T0)
    assert (status["nodes"], status["endpoints"], status["observedGeneration"]) == (2, 7, 3)
    assert {name: c["status"] for name, c in conditions(status).items()} == {"Accepted": "True", "Programmed": "True"}


def test_a_node_that_lags_or_is_not_ready_is_named() -> None:
    reports = {"a": in_force(3), "b": in_force(2), "c": in_force(3, problem="no pods' root")}
    found = conditions(status_of(good(3), reports, T0))["Programmed"]
    assert (found["status"], found["reason"]) == ("False", "Pending")
    assert found["message"] == "generation 3 is not in force on b; c: no pods' root"


def test_a_policy_that_is_too_big_for_a_node_says_so_in_its_status() -> None:
    """P17: by name, with what it needs and what there is."""
    why = "is too big: it needs 251,001 rows of map rules, namespace airflow may have 45,000"
    report = node_report([good(3)], Cluster(), {}, (), {REF: why})
    read = NodeReport.decode(report.encode())
    assert read == report
    found = conditions(status_of(good(3), {"a": in_force(2), "b": read}, T0))
    assert (found["Programmed"]["status"], found["Programmed"]["reason"]) == ("False", "Refused")
    assert found["Programmed"]["message"] == f"generation 3 is not in force on b: {why}; a"
    assert found["Accepted"]["status"] == "True"
    assert report.differs_in_conditions(replace(report, refused={}))


def test_an_invalid_generation_does_not_hide_the_valid_one() -> None:
    found = conditions(status_of(broken(), {"a": in_force(1)}, T0))
    assert (found["Accepted"]["status"], found["Accepted"]["observedGeneration"]) == ("False", 2)
    assert found["Accepted"]["message"].endswith("spec.egress: wrong; generation 1 stays in force")
    assert (found["Programmed"]["status"], found["Programmed"]["observedGeneration"]) == ("True", 1)


def test_never_valid_and_nobody_there() -> None:
    never = status_of(broken(0), {"a": in_force(0)}, T0)
    assert conditions(never)["Programmed"]["reason"] == "NeverValid"
    assert never["nodes"] == 0
    assert conditions(status_of(good(), {}, T0))["Programmed"]["reason"] == "NoNodes"


def test_times_are_those_of_the_change() -> None:
    first = status_of(good(), {"a": in_force(0)}, T0)
    second = conditions(status_of(good(status=first), {"a": in_force(1)}, T1))
    assert second["Accepted"]["lastTransitionTime"] == T0
    assert second["Programmed"]["lastTransitionTime"] == T1


def test_what_is_the_same_is_not_written_and_counts_can_wait() -> None:
    writes, reports = StatusWrites(), {"a": in_force(1, 1)}
    ((_, status),) = writes.due([good()], reports, 0.0, T0)
    assert writes.due([good()], reports, 1.0, T0) == [], "the server's answer is still on its way"
    assert len(writes.due([good()], reports, 6.0, T0)) == 1, "it did not come"
    held = good(status=status)
    assert writes.due([held], reports, 100.0, T1) == []
    assert len(writes.due([held], {"a": in_force(1, 2)}, 100.0, T1)) == 1
    assert writes.due([held], {"a": in_force(1, 3)}, 130.0, T1) == []
    assert len(writes.due([replace(held, problem="x")], {"a": in_force(1, 3)}, 130.0, T1)) == 1


def test_a_report_says_what_the_maps_say() -> None:
    other = replace(POLICY, raw_sockets=True)
    assert node_report([good(2)], programmed(POLICY), {REF: 4}, ()).policies == {NAME: (2, 4)}
    assert node_report([good(2)], programmed(other), {}, ()).policies == {NAME: (0, 0)}
    assert node_report([good(2)], Cluster(), {}, ["not ready"]) == NodeReport({NAME: (0, 0)}, "not ready")
    assert NodeReport.decode(in_force(2, 3, "x").encode()) == in_force(2, 3, "x")
    assert NodeReport.decode('{"tenants": {"a": 1}}') is None


def many(namespace: str, count: int) -> dict[str, tuple[int, int]]:
    refs = (PolicyRef(namespace, "TaskNetworkPolicy", f"policy-with-a-long-name-{i:0200}") for i in range(count))
    return {digest(ref): (i, 1) for i, ref in enumerate(refs)}


def test_a_report_is_bounded_and_one_tenant_s_policies_crowd_out_nobody_s() -> None:
    """760 policies of long names were too many for everybody; one tenant's are too many for that tenant."""
    fits = NodeReport(many("airflow", 2000) | many("", 10))
    assert NodeReport.decode(fits.encode()) == fits
    whole = NodeReport(many("greedy", 5000) | many("airflow", 500) | many("etl", 500) | many("", 10))
    text = whole.encode()
    assert len(text) < MAX_REPORT
    read = NodeReport.decode(text)
    assert read is not None
    assert read.policies == many("airflow", 500) | many("etl", 500) | many("", 10)
    assert read.left_out == {"greedy"}
    ref = PolicyRef("greedy", "TaskNetworkPolicy", "p")
    found = conditions(status_of(ValidatedPolicy(ref, 1, 1, replace(POLICY, ref=ref)), {"a": read}, T0))["Programmed"]
    assert found["message"].endswith("on a: namespace has more policies than a node's report can hold")


def test_the_more_nodes_the_more_rarely_each_asks() -> None:
    """A thousand followers asked a thousand times a second."""
    for nodes, least, most in ((1, 10.0, 15.0), (1000, 50.0, 75.0)):
        election = Election("b", draw=max)
        election.answered(ours=False, asked_at=0.0, nodes=nodes)
        assert not election.due(most - 0.1)
        assert election.due(most)
        election = Election("b", draw=min)
        election.answered(ours=False, asked_at=0.0, nodes=nodes)
        assert (election.due(least - 0.1), election.due(least)) == (False, True)
    holder = Election("a")
    holder.answered(ours=True, asked_at=0.0, nodes=1000)
    assert holder.due(10.0), "who has it renews it in time"


def test_an_election_is_won_once_and_inherited() -> None:
    a, b = Election("a"), Election("b")
    lease = a.claim(None, 0.0, 1000.0)
    assert lease is not None
    a.answered(ours=True, asked_at=0.0)
    assert a.holds(1.0)
    assert not a.due(9.0)
    assert b.claim(lease, 0.0, 1000.0) is None
    renewed = a.claim(lease, 10.0, 1010.0)
    assert b.claim(renewed, 10.0, 1010.0) is None
    assert b.claim(renewed, 39.0, 1039.0) is None
    taken = b.claim(renewed, 10.0 + HOLD_SECONDS, 1040.0)
    assert taken is not None
    assert (taken["spec"]["holderIdentity"], taken["spec"]["leaseTransitions"]) == ("b", 2)
    assert not a.holds(30.0), "who could not renew has stopped by then"
    released = {**taken, "spec": {**taken["spec"], "holderIdentity": ""}}
    assert a.claim(released, 41.0, 1041.0) is not None, "given up: free at once"


def test_only_nodes_that_live_count() -> None:
    later = 1000.0 + NODE_SECONDS
    leases = [node_lease("a", "", in_force(1), None, 1000.0), node_lease("b", "", in_force(1), None, later)]
    assert living(leases, 1001.0).keys() == {"a", "b"}
    assert living([*leases, {"metadata": {}}, {}], 1001.0 + NODE_SECONDS).keys() == {"b"}


def test_a_node_s_lease_goes_with_the_node() -> None:
    before = node_lease("a", "", in_force(1), None, 1000.0)
    assert "ownerReferences" not in before["metadata"], "the server knows no such node"
    (owner,) = node_lease("a", "uid-1", in_force(1), before, 1001.0)["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "uid-1"}


def test_bindings_too() -> None:
    ref = PolicyRef("", "TaskIdentityBinding", "b")
    binding = TaskIdentityBinding("b", "etl", ("worker",), ("finance_*",))
    judged = ValidatedPolicy(ref, 3, 3, binding)
    assert node_report([judged], Cluster(bindings=Map({"b": binding})), {ref: 2}, ()).policies == {
        digest(ref): (3, 2)
    }
    assert node_report([judged], Cluster(), {}, ()).policies == {digest(ref): (0, 0)}
