"""What the log says of policies that come and go, and of what is over."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from immutables import Map

from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Cluster
from agent.model.policy import Policy, PolicyRef, Posture, Subject
from agent.node.news import MOST, News, log_state
from tests.unit.seen import VIEW

REF = PolicyRef("etl", "TaskNetworkPolicy", "p")
POLICY = Policy(REF, Subject(), egress=())


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    found = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    caplog.clear()
    return [(name, fields.get("change") or fields.get("state") or fields) for name, fields in found]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dagwall")


def test_policies_that_come_change_and_go(caplog: pytest.LogCaptureFixture) -> None:
    news, first = News(), Cluster(policies=Map({REF: POLICY}))
    news.snapshot(first)
    assert told(caplog) == [("policy.changed", "came")]
    news.snapshot(replace(first, revision=2))
    assert told(caplog) == []
    news.snapshot(replace(first, policies=Map({REF: replace(POLICY, posture=Posture.AUDIT)})))
    assert told(caplog) == [("policy.changed", "changed")]
    binding = TaskIdentityBinding("b", "etl", ("sa",), ("d",))
    news.snapshot(Cluster(bindings=Map({"b": binding})))
    assert told(caplog) == [("policy.changed", "went"), ("policy.changed", "came")]


def test_a_flood_of_policies_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    refs = [PolicyRef("etl", "TaskNetworkPolicy", f"p{n}") for n in range(MOST + 7)]
    News().snapshot(Cluster(policies=Map({ref: replace(POLICY, ref=ref) for ref in refs})))
    assert len(caplog.records) == MOST + 1
    assert caplog.records[-1].__dict__["fields"]["more"] == 7


def test_the_end_of_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    news = News()
    for problems in ((), ("a",), ("a", "b")):
        news.readiness(problems)
    assert told(caplog) == []
    news.readiness(())
    news.readiness(())
    assert [name for name, _ in told(caplog)] == ["agent.ready"]


def test_the_end_of_pending_and_quarantine(caplog: pytest.LogCaptureFixture) -> None:
    (row,) = VIEW.endpoints
    for before, state, said in (
        ("pending", "managed", True), ("quarantined", "managed", True), ("managed", "quarantined", True),
        ("managed", "managed", False), ("unmanaged", "managed", False),
    ):  # fmt: skip
        log_state(replace(row, state=before), replace(row, state=state))
        assert told(caplog) == ([("endpoint.state", state)] if said else [])
