"""What the agent writes to an API server that refuses for moments, or for good."""
# ruff: noqa: ARG002  the fake has the signatures of the real one

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agent.errors import ApiError, ApiStatus
from agent.model.policy import PolicyRef
from agent.model.verdict import EndpointState
from agent.outputs.kube.own_node import OwnNode
from agent.outputs.kube.reports import (
    FORBIDDEN_AFTER_SECONDS,
    FORBIDDEN_SECONDS,
    MOST_WAIT_SECONDS,
    KubeReports,
    selected,
)
from tests.unit.seen import POLICIES, ROW, denial


@dataclass(slots=True)
class Server:
    """Refuses with `error` while there is one; remembers what it took, and how often it was asked."""

    error: ApiError | None = None
    taken: list[Mapping[str, Any]] = field(default_factory=list)
    asked: int = 0

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {"metadata": {"uid": "u"}}

    def send(
        self, method: str, path: str, body: Mapping[str, Any], *, kind: str = "", **query: str
    ) -> dict[str, Any]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.taken.append(body)
        return {}


def run(reports: KubeReports, begin: float, seconds: float) -> float:
    """A step each second, as the thread does; the end."""
    for second in range(int(seconds)):
        reports.step(begin + second, 0.0)
    return begin + seconds


@pytest.mark.parametrize(
    "said",
    [
        ApiError("events is forbidden", 403), ApiError("unauthorized", 401), ApiError("the page is not here", 404),
        ApiError("elsewhere", 404, ApiStatus("NotFound", "namespaces", "another")),
        ApiError("slow down", 429), ApiError("starting", 500), ApiError("starting", 503), ApiError("refused", 0),
    ],
    ids=lambda said: str(said.status),
)  # fmt: skip
def test_a_server_that_refuses_for_a_minute_loses_no_event(said: ApiError) -> None:
    server = Server(said)
    reports = KubeReports(server, "n1")
    reports.denials([denial()])
    now = run(reports, 1000.0, 60)
    assert server.asked > 3, "asked again, with a backoff"
    server.error = None
    run(reports, now, MOST_WAIT_SECONDS + 11)
    assert [body["reason"] for body in server.taken] == ["NetworkDenied"]
    assert "events_refused" not in reports.losses()


def test_without_the_right_to_write_events_requests_are_rare() -> None:
    server = Server(ApiError("events is forbidden", 403))
    reports = KubeReports(server, "n1")
    reports.denials([denial()])
    now = run(reports, 1000.0, FORBIDDEN_AFTER_SECONDS + MOST_WAIT_SECONDS + 1)
    asked = server.asked
    now = run(reports, now, FORBIDDEN_SECONDS - MOST_WAIT_SECONDS - 1)
    assert server.asked == asked
    assert reports.losses()["events_refused"] == 1, "what no Event can say is counted"
    server.error = None
    reports.denials([denial(time=5.0)])
    run(reports, now, MOST_WAIT_SECONDS + FORBIDDEN_SECONDS)
    assert len(server.taken) == 1


@pytest.mark.parametrize(
    "said",
    [
        ApiError("not found", 404, ApiStatus("NotFound", "namespaces", "airflow")), ApiError("422 invalid", 422),
        ApiError("forbidden", 403, ApiStatus("Forbidden", causes=frozenset({"NamespaceTerminating"}))),
    ],
    ids=lambda said: str(said.status),
)  # fmt: skip
def test_an_event_that_the_server_can_never_take_is_counted_as_lost(said: ApiError) -> None:
    server = Server(said)
    reports = KubeReports(server, "n1")
    reports.denials([denial()])
    run(reports, 1000.0, 3)
    assert reports.losses()["events_refused"] == 1
    assert server.asked == 1


def test_the_node_s_uid_is_asked_for_again_after_a_refusal() -> None:
    server = Server(ApiError("forbidden", 403))
    node = OwnNode(server, "n1")
    assert node.uid() == ""
    server.error = None
    assert (node.uid(), node.uid(), server.asked) == ("u", "u", 2)


def test_pods_are_counted_for_the_policies_that_select_them() -> None:
    """By the compiler's own answer; a binding counts the pods that it speaks about, whatever their state."""
    first, second = POLICIES[:2]
    rows = [
        replace(ROW, policies=(first, second), binding="b"),
        replace(ROW, state=EndpointState.QUARANTINED, policies=(first,), binding="b"),
        replace(ROW, state=EndpointState.UNMANAGED, policies=(second,)),
    ]
    assert selected(rows) == {first: 2, second: 1, PolicyRef("", "TaskIdentityBinding", "b"): 2}
