"""The local API's rows and the notices: names that people and scripts read (R3), and sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from immutables import Map

from agent.model.classify import ClassifiedBy
from agent.model.cluster import Cluster, Escape, Namespace, Settings
from agent.model.identity import Attestation
from agent.model.network_policy import NetworkPolicy
from agent.model.node_state import NodeState, Outside
from agent.model.policy import PolicyRef
from agent.model.report import EndpointRow
from agent.model.selector import LabelSelector
from agent.model.verdict import EndpointState
from agent.outputs.notices import not_covered, notices
from agent.outputs.rows import denial_record, endpoint_record, status_record
from tests.unit.seen import FACTS, ROW, STATE, TOTALS, VIEW, WAREHOUSE, with_row

STATUS_NAMES = {
    "version", "node", "ready", "problems", "notices", "revision", "programmed", "complete", "posture",
    "on_agent_loss", "kernel", "bcc", "features", "hooks", "maps", "endpoints", "policies", "network_policies",
    "bindings", "losses", "object_errors", "unenforceable", "contradicting", "outside", "started",
    "enforcing_after_seconds", "not_covered", "pins_were_gone", "resident_bytes", "pins", "repaired", "stale_seconds",
    "without_events",
}  # fmt: skip


def test_status_has_every_field_that_scripts_may_read() -> None:
    status = replace(STATE.status, outside=(Outside("airflow/p", "/system.slice/x"),))
    found = status_record(replace(VIEW, state=replace(STATE, status=status)))
    assert found.keys() >= STATUS_NAMES
    assert found["endpoints"] == [["pending", 0], ["managed", 1], ["unmanaged", 0], ["quarantined", 0]]
    assert found["losses"] == [["ring_full", 0], ["flows_quota", 4]]
    assert found["features"] == [["set_retval", True]]
    assert [each["name"] for each in found["maps"]] == ["rules", "flows"]
    assert (found["revision"], found["programmed"], found["policies"], found["bindings"]) == (7, 6, 3, 1)
    assert found["outside"] == ["airflow/p: /system.slice/x"]


def test_an_endpoint_is_spelled_as_before() -> None:
    found = endpoint_record(replace(ROW, escapes=(Escape("hostPath", "/var"),), attestation=Attestation.BOUND))
    assert (found["state"], found["attestation"], found["settled_by"]) == ("managed", "bound", "")
    assert found["escapes"] == ["hostPath /var"]
    assert endpoint_record(replace(ROW, classified_by=ClassifiedBy.FIRST_BOOT))["settled_by"] == "first boot"
    assert endpoint_record(ROW)["attestation"] == ""


def test_a_denial_is_spelled_as_before() -> None:
    (row,) = TOTALS.denials
    found = denial_record(row)
    assert (found["reason"], found["rule"], found["direction"], found["verdict"]) == ("no_rule", "", "egress", "deny")
    assert denial_record(replace(row, rule=WAREHOUSE))["rule"] == str(WAREHOUSE)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ROW, ["airflow/finance-load-x1: NET_RAW: AF_PACKET"]),
        (replace(ROW, state=EndpointState.QUARANTINED), ["airflow/finance-load-x1: NET_RAW: AF_PACKET"]),
        (replace(ROW, state=EndpointState.UNMANAGED), []),
        (
            replace(ROW, escapes=(Escape("hostPath", "/var"),)),
            ["airflow/finance-load-x1: hostPath /var: it can"],
        ),
        (replace(ROW, escapes=()), []),
    ],
)
def test_pods_that_the_kernel_cannot_hold_are_named_with_the_reason(row: EndpointRow, expected: list[str]) -> None:
    """L8."""
    found = status_record(with_row(row))["unenforceable"]
    assert [text[: len(start)] for text, start in zip(found, expected, strict=True)] == expected


@pytest.mark.parametrize("holds", [True, False])
def test_what_no_program_sees_depends_on_the_kernel(holds: bool) -> None:
    found = not_covered(holds_families=holds)
    assert any("AF_PACKET" in sentence for sentence in found) != holds
    assert any("container runtime" in sentence for sentence in found)


def of(**changes: Any) -> NodeState:
    """A node of which nothing is to be said, but these parts of the report."""
    return replace(STATE, **changes)


def status(**changes: Any) -> NodeState:
    return of(status=replace(STATE.status, **changes))


def cluster(**changes: Any) -> NodeState:
    return of(cluster=replace(STATE.cluster, **changes))


NATIVE = NetworkPolicy(PolicyRef("airflow", "NetworkPolicy", "n"), LabelSelector())


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (STATE, ""),
        (cluster(complete=False), "the sources have not listed everything yet"),
        (status(stale_seconds=42.4), "the API server has not answered for 42 s"),
        (of(facts=replace(FACTS, pins_were_gone=True)), "at this agent's start: an agent has enforced here"),
        (of(facts=replace(FACTS, links_were_lost=("egress of cgroup 7",))), "judged nothing meanwhile: egress of"),
        (status(forgotten=("claims: damaged",)), "at this agent's start, lost for good: claims: damaged"),
        (status(without_events=("manifests: none",)), "manifests: none"),
        (cluster(settings=Settings(audit_everything=True)), "--posture audit"),
        (cluster(network_policies=Map({NATIVE.ref: NATIVE})), "1 NetworkPolicies are not enforced"),
        (cluster(namespaces=Map({"airflow": Namespace("airflow")})), "no namespace is managed"),
        (
            with_row(replace(ROW, classified_by=ClassifiedBy.FIRST_BOOT)).state,
            "1 pods pass unclassified",
        ),
        (with_row(replace(ROW, state=EndpointState.PENDING)).state, "nothing leaves: airflow/finance-"),
    ],
)
def test_a_notice_for_each_thing_that_people_should_know(state: NodeState, expected: str) -> None:
    found = notices(state)
    assert len(found) == bool(expected), found
    assert expected in "".join(found)


def test_no_notice_of_what_is_switched_on() -> None:
    native = {"network_policies": Map({NATIVE.ref: NATIVE}), "settings": Settings(network_policy=True)}
    assert notices(cluster(**native)) == ()
    assert notices(of(cluster=Cluster()))
