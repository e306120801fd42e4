"""The log of policies that come and go, and of what is over."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from immutables import Map

from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Cluster
from agent.model.policy import Policy, PolicyRef, Posture, Subject
from agent.model.verdict import EndpointState as S
from agent.node.news import MOST, News, log_state
from tests.unit.seen import ROW

REF = PolicyRef("etl", "TaskNetworkPolicy", "p")
POLICY = Policy(REF, Subject(), egress=())


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    found = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    caplog.clear()
    return [(name, fields.get("change") or fields.get("state") or fields) for name, fields in found]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dagwall")


def test_policies_that_come_change_and_go(caplog: pytest.LogCaptureFixture) -> None:
    news, first = News(), Cluster(policies=Map({REF: POLICY}))
    news.snapshot(first)
    assert logged(caplog) == [("policy.changed", "came")]
    news.snapshot(replace(first, revision=2))
    assert logged(caplog) == []
    news.snapshot(replace(first, policies=Map({REF: replace(POLICY, posture=Posture.AUDIT)})))
    assert logged(caplog) == [("policy.changed", "changed")]
    binding = TaskIdentityBinding("b", "etl", ("sa",), ("d",))
    news.snapshot(Cluster(bindings=Map({"b": binding})))
    assert logged(caplog) == [("policy.changed", "went"), ("policy.changed", "came")]


def test_a_flood_of_policies_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    refs = [PolicyRef("etl", "TaskNetworkPolicy", f"p{n}") for n in range(MOST + 7)]
    News().snapshot(Cluster(policies=Map({ref: replace(POLICY, ref=ref) for ref in refs})))
    assert len(caplog.records) == MOST + 1
    assert caplog.records[-1].__dict__["fields"]["more"] == 7


def test_the_log_has_when_the_node_is_ready_again(caplog: pytest.LogCaptureFixture) -> None:
    news = News()
    for ready in (True, False, False):
        news.readiness(ready=ready)
    assert logged(caplog) == []
    news.readiness(ready=True)
    news.readiness(ready=True)
    assert [name for name, _ in logged(caplog)] == ["agent.ready"]


def test_the_log_has_changes_to_and_from_pending_and_quarantined(caplog: pytest.LogCaptureFixture) -> None:
    for before, state, expected in (
        (S.PENDING, S.MANAGED, True), (S.QUARANTINED, S.MANAGED, True), (S.MANAGED, S.QUARANTINED, True),
        (S.MANAGED, S.MANAGED, False), (S.UNMANAGED, S.MANAGED, False),
    ):  # fmt: skip
        log_state(replace(ROW, state=before), replace(ROW, state=state))
        assert logged(caplog) == ([("endpoint.state", state.name.lower())] if expected else [])
