"""The steps of the reports to the API server: Lease, taint, election, statuses, and how long a refusal costs."""
# ruff: noqa: ARG002  the fake has the signatures of the real one

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from immutables import Map

from agent.errors import ApiError, ApiStatus
from agent.model.cluster import Cluster, Namespace, Node
from agent.model.identity import PodUid
from agent.model.node_state import NodeState, Topic
from agent.model.policy import Policy, PolicyRef, Subject
from agent.model.validated import ValidatedPolicy
from agent.outputs.kube.lease import ELECTION, HOLD_SECONDS, REPORT, node_lease_name
from agent.outputs.kube.node_report import NodeReport, digest
from agent.outputs.kube.reports import KubeReports, status_path
from agent.parse.cluster_objects import STARTUP_TAINT
from tests.unit.fake_kernel import Clock
from tests.unit.seen import ROW, STATE

REF = PolicyRef("airflow", "TaskNetworkPolicy", "etl")
POLICY = Policy(REF, Subject(), egress=())
LEASES = "/apis/coordination.k8s.io/v1/namespaces/dagwall-system/leases"
OWN = f"{LEASES}/{node_lease_name('n1')}"
NODE = "/api/v1/nodes/n1"
WALL = 1_700_000_000.0


@dataclass
class Store:
    """An API server that keeps objects by path, and refuses the paths in `refused`."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, ApiError] = field(default_factory=dict)  # by a part of the path
    asked: list[str] = field(default_factory=list)

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        self._answer("GET", path)
        if "labelSelector" in query:
            return {"items": [obj for at, obj in self.objects.items() if at.startswith(f"{path}/dagwall-node")]}
        if path not in self.objects:
            raise ApiError("not found", 404, ApiStatus("NotFound"))
        return self.objects[path]

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        *,
        kind: str = "",
        **query: str,
    ) -> dict[str, Any]:
        self._answer(method, path)
        at = f"{path}/{body['metadata']['name']}" if method == "POST" and path == LEASES else path
        made = {**body, "metadata": {**body.get("metadata", {}), "resourceVersion": str(len(self.asked))}}
        self.objects[at] = made
        return made

    def _answer(self, method: str, path: str) -> None:
        self.asked.append(f"{method} {path}")
        for part, error in self.refused.items():
            if part in path:
                raise error

    def wrote(self, path: str) -> int:
        return sum(each.endswith(f" {path}") and not each.startswith("GET") for each in self.asked)


def state(*, tainted: bool = False, complete: bool = True, **problems: str) -> NodeState:
    node = Node("n1", tainted=tainted)
    cluster = Cluster(
        complete=complete, namespaces=Map({"airflow": Namespace("airflow", managed=True)}), nodes=Map({"n1": node}),
        policies=Map({REF: POLICY}),
    )  # fmt: skip
    status = replace(STATE.status, problems={Topic(topic): text for topic, text in problems.items()})
    return replace(
        STATE, status=status, cluster=cluster, validated=(ValidatedPolicy(REF, 3, 3, POLICY),),
        endpoints={PodUid("uid-1"): replace(ROW, policies=(REF,))},
    )  # fmt: skip


@dataclass
class Reporting:
    server: Store = field(default_factory=Store)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.reports = KubeReports(self.server, "n1", namespace="dagwall-system", clock=self.clock, wall=lambda: WALL)

    def step(self, seconds: float = 1.0) -> None:
        self.clock.now += seconds
        self.reports.step(self.clock.now, WALL + self.clock.now)

    def own(self) -> NodeReport:
        found = NodeReport.decode(self.server.objects[OWN]["metadata"]["annotations"][REPORT])
        assert found is not None
        return found


@pytest.fixture
def reporting() -> Reporting:
    return Reporting()


def test_nothing_is_reported_before_the_snapshot_is_complete(reporting: Reporting) -> None:
    reporting.step()
    reporting.reports.report(state(complete=False))
    reporting.step()
    assert reporting.server.asked == []


def test_the_node_s_lease_has_what_is_in_force_and_how_many_pods_it_selects(reporting: Reporting) -> None:
    reporting.reports.report(state())
    reporting.step()
    assert reporting.own() == NodeReport({digest(REF): (3, 1)})


@pytest.mark.parametrize(
    ("topic", "told"),
    [("kernel", True), ("hooks", True), ("roots", True), ("revision", True), ("outside", False), ("pending", False),
     ("source", False), ("state", False)],
)  # fmt: skip
def test_a_problem_is_in_the_lease_if_it_concerns_every_policy(reporting: Reporting, topic: str, told: bool) -> None:
    reporting.reports.report(state(**{topic: "broken"}))
    reporting.step()
    assert reporting.own().problem == ("broken" if told else "")


def test_a_policy_that_is_too_big_is_in_the_lease_with_the_reason(reporting: Reporting) -> None:
    """P17."""
    reporting.reports.report(replace(state(), refused={REF: "is too big"}))
    reporting.step()
    assert reporting.own().refused == {digest(REF): "is too big"}


@pytest.mark.parametrize(
    ("tainted", "problems", "taken_off"),
    [(True, {}, True), (False, {}, False), (True, {"pending": "pods"}, False)],
)
def test_the_startup_taint_is_taken_off_when_the_node_is_ready(
    reporting: Reporting, tainted: bool, problems: dict[str, str], taken_off: bool
) -> None:
    """L3."""
    taints = [{"key": STARTUP_TAINT}, {"key": "other"}]
    reporting.server.objects[NODE] = {"metadata": {"uid": "u", "resourceVersion": "1"}, "spec": {"taints": taints}}
    reporting.reports.report(state(tainted=tainted, **problems))
    reporting.step()
    assert (reporting.server.objects[NODE]["spec"]["taints"] == [{"key": "other"}]) is taken_off


def test_who_holds_the_election_writes_statuses(reporting: Reporting) -> None:
    reporting.reports.report(state())
    reporting.step()
    written = reporting.server.objects[status_path(REF)]["status"]
    assert (written["nodes"], written["endpoints"], written["observedGeneration"]) == (1, 1, 3)
    reporting.step()
    assert reporting.server.wrote(status_path(REF)) == 1, "not each second"


def test_nobody_else_does_until_the_holder_is_silent(reporting: Reporting) -> None:
    spec = {"holderIdentity": "n2", "renewTime": "2026-01-01T00:00:00.000000Z"}
    reporting.server.objects[f"{LEASES}/{ELECTION}"] = {
        "metadata": {"name": ELECTION, "resourceVersion": "1"},
        "spec": spec,
    }
    reporting.reports.report(state())
    for _ in range(3):
        reporting.step()
    assert reporting.server.wrote(status_path(REF)) == 0
    reporting.step(HOLD_SECONDS)
    assert reporting.server.wrote(status_path(REF)) == 1


def test_at_its_end_it_gives_the_election_up(reporting: Reporting) -> None:
    reporting.reports.report(state())
    reporting.reports.start()
    reporting.reports.stop()
    assert reporting.server.objects[f"{LEASES}/{ELECTION}"]["spec"]["holderIdentity"] == ""


def test_a_status_of_what_was_deleted_meanwhile_is_no_failure(reporting: Reporting) -> None:
    reporting.server.refused = {"/status": ApiError("gone", 404)}
    reporting.reports.report(state())
    reporting.step()
    assert not sum(reporting.reports.losses().values())


def test_a_refusal_of_one_topic_leaves_the_others_alone(reporting: Reporting) -> None:
    reporting.server.refused = {node_lease_name("n1"): ApiError("starting", 503)}
    reporting.reports.report(state())
    reporting.step()
    assert +Counter(reporting.reports.losses()) == {"kube_node_failed": 1}
    assert reporting.server.wrote(status_path(REF)) == 1


def test_a_topic_that_is_refused_waits_twice_as_long_each_time_up_to_half_a_minute(reporting: Reporting) -> None:
    reporting.server.refused = {node_lease_name("n1"): ApiError("starting", 503)}
    reporting.reports.report(state())
    tried = []
    for _ in range(120):
        before = len([each for each in reporting.server.asked if each.endswith(OWN)])
        reporting.step()
        if len([each for each in reporting.server.asked if each.endswith(OWN)]) > before:
            tried.append(reporting.clock.now - 1001.0)
    assert tried == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0]


def test_after_a_success_the_next_refusal_waits_for_a_second_again(reporting: Reporting) -> None:
    refused = {node_lease_name("n1"): ApiError("starting", 503)}
    reporting.server.refused = refused
    reporting.reports.report(state())
    for _ in range(8):
        reporting.step()
    reporting.server.refused = {}
    reporting.step(30)
    assert OWN in reporting.server.objects
    reporting.server.refused = refused
    reporting.reports.report(state(kernel="full"))  # which differs in conditions
    reporting.step(10)
    asked = len(reporting.server.asked)
    reporting.step(1)
    assert any(each.endswith(OWN) for each in reporting.server.asked[asked:])


def test_each_report_s_contradictions_become_events_once(reporting: Reporting) -> None:
    row = replace(ROW, contradictions=("labels and annotations differ",))
    reporting.reports.report(replace(state(), contradicting=(row,)))
    reporting.reports.report(state())
    reporting.step()
    events = [obj for path, obj in reporting.server.objects.items() if path.endswith("/events")]
    assert [(obj["reason"], obj["count"]) for obj in events] == [("IdentityContradicted", 1)]
    assert json.dumps(events[0]).count("uid-1") == 1
