"""Denials as Events: aggregation, rates, bounds, and failures that lose nothing but time."""

from __future__ import annotations

from dataclasses import replace

from agent.model.flow import Denial
from agent.model.report import EndpointRow
from agent.model.verdict import DropReason, EndpointState, Hook, Verdict
from agent.outputs.kube.events import BURST, IDLE_SECONDS, SERIES_OF_A_POD, EventSeries, EventWrite
from tests.unit.seen import denial, endpoint, rule_of


def series(limit: int = 100) -> EventSeries:
    return EventSeries("n1", limit=limit)


def of_pod(number: int) -> Denial:
    facts = replace(endpoint(pod=f"p{number}"), uid=f"uid-{number}")
    return replace(denial(), endpoint=facts)


def to_port(port: int) -> Denial:
    return replace(denial(), tuple=replace(denial().tuple, service_port=port))


def written(events: EventSeries, now: float) -> list[EventWrite]:
    """What was due, and the server took."""
    writes = events.due(now)
    for write in writes:
        events.done(write)
    return writes


def test_equal_denials_are_one_event_and_then_patches_of_it() -> None:
    events = series()
    events.add([denial(time=10.0)], {}, 0.0)
    (first,) = written(events, 0.0)
    assert first.new
    assert (first.body["count"], first.body["reason"], first.body["type"]) == (1, "NetworkDenied", "Warning")
    assert first.body["involvedObject"]["uid"] == "uid-1"
    assert first.body["message"].startswith("denied: TCP to 192.0.2.9:5432 (world), no rule allows it")
    events.add([denial(time=11.0), denial(time=12.0)], {}, 1.0)
    assert written(events, 1.0) == [], "one write each EVERY_SECONDS"
    (second,) = written(events, 10.0)
    assert not second.new
    assert second.name == first.name
    assert second.body == {"count": 3, "lastTimestamp": "1970-01-01T00:00:12Z"}
    assert written(events, 100.0) == [], "nothing new, nothing written"


def test_each_refused_family_is_an_event() -> None:
    events = series()
    refused = [replace(denial(reason=DropReason.SOCKET_FAMILY), hook=Hook.SOCKET_CREATE, family=f) for f in (17, 40)]
    events.add(refused, {}, 0.0)
    messages = [write.body["message"] for write in written(events, 0.0)]
    assert [message.partition(",")[0] for message in messages] == [
        "denied: an AF_PACKET socket",
        "denied: an AF_VSOCK socket",
    ]


def test_the_author_s_reason_and_audit() -> None:
    events = series()
    rule = "TaskNetworkPolicy/airflow/p/r"
    of = rule_of(rule)
    assert of is not None
    events.add([denial(rule=rule, verdict=Verdict.AUDIT)], {of: "ask the platform team"}, 0.0)
    events.add([denial(verdict=Verdict.ALLOW)], {}, 0.0)
    (write,) = written(events, 0.0)
    assert (write.body["reason"], write.body["type"]) == ("NetworkWouldBeDenied", "Normal")
    assert "ask the platform team" in write.body["message"]


def test_the_rate_bounds_writes_and_loses_none() -> None:
    events = series(1000)
    events.add([of_pod(n) for n in range(100)], {}, 0.0)
    assert len(written(events, 0.0)) == BURST
    total = int(BURST)
    for second in range(1, 60):
        total += len(written(events, float(second)))
    assert total == 100
    assert not events.lost


def test_a_task_that_scans_gets_one_more_event_not_thousands() -> None:
    events = series()
    events.add([to_port(port) for port in range(1, 1001)], {}, 0.0)
    assert len(events) == SERIES_OF_A_POD + 1
    writes = [write for second in range(30) for write in written(events, float(second))]
    counts = [w.body["count"] for w in writes]
    assert sum(counts) == 1000, "none is lost"
    assert max(counts) == 1000 - SERIES_OF_A_POD


def test_memory_is_bounded_and_what_was_written_makes_room() -> None:
    events = series(limit=3)
    events.add([of_pod(n) for n in range(5)], {}, 0.0)
    assert len(events) == 3
    assert events.lost == {"events_full": 2}
    written(events, 0.0)
    events.add([of_pod(9)], {}, 1.0)
    assert len(events) == 3
    assert events.lost == {"events_full": 2}


def test_after_a_silence_it_is_a_new_event() -> None:
    events = series()
    events.add([denial()], {}, 0.0)
    written(events, 0.0)
    written(events, IDLE_SECONDS + 1)
    assert len(events) == 0
    events.add([denial(time=900.0)], {}, IDLE_SECONDS + 2)
    (write,) = written(events, IDLE_SECONDS + 2)
    assert (write.new, write.body["count"]) == (True, 1)


def test_what_failed_is_tried_again_with_all_that_came_since() -> None:
    events = series()
    events.add([denial()], {}, 0.0)
    (write,) = events.due(0.0)
    events.failed(write, gone=False)
    events.add([denial()], {}, 1.0)
    (again,) = events.due(10.0)
    assert (again.new, again.name, again.body["count"]) == (True, write.name, 2)
    events.exists(again)  # the first try had arrived after all
    (patch,) = written(events, 10.0)
    assert (patch.new, patch.name, patch.body["count"]) == (False, write.name, 2)


def test_an_event_that_has_expired_is_made_again_and_a_refused_one_is_counted() -> None:
    events = series()
    events.add([denial()], {}, 0.0)
    written(events, 0.0)
    events.add([denial()], {}, 10.0)
    (patch,) = events.due(10.0)
    events.failed(patch, gone=True)
    (anew,) = events.due(20.0)
    assert (anew.new, anew.body["count"]) == (True, 2)
    events.failed(anew, gone=True)
    assert events.lost == {"events_refused": 1}
    assert len(events) == 0


def test_a_pod_without_a_name_has_no_event() -> None:
    events = series()
    events.add([replace(denial(), endpoint=endpoint(pod=""))], {}, 0.0)
    assert events.due(0.0) == []
    assert events.lost == {"events_without_pod": 1}


def test_a_contradicting_claim_is_one_event() -> None:
    events = series()
    claimed = EndpointRow(
        uid="u", namespace="etl", pod="p", state=EndpointState.MANAGED, identity="", number=0, ruleset=0, slot=0,
        cgroup_ids=(),
        contradictions=("TaskIdentityBinding/finance: service account worker may not run dag finance_daily",),
    )  # fmt: skip
    for state, reason in (
        (EndpointState.MANAGED, "IdentityContradicted"),
        (EndpointState.QUARANTINED, "IdentityQuarantined"),
    ):
        row = replace(claimed, state=state)
        events.add_contradiction(row, 1.0, 0.0)
        (write,) = written(events, 0.0)
        assert (write.body["reason"], write.body["type"], write.body["count"]) == (reason, "Warning", 1)
        assert "TaskIdentityBinding/finance" in write.body["message"]
        assert write.body["involvedObject"]["uid"] == "u"


def of_tenant(namespace: str, number: int) -> Denial:
    facts = replace(endpoint(pod=f"p{number}"), namespace=namespace, uid=f"{namespace}-{number}")
    return replace(denial(), endpoint=facts)


def test_another_tenant_s_first_denial_finds_room_and_its_turn() -> None:
    """A hundred pods of one tenant filled every series, and their writes took minutes (S1)."""
    events = series(limit=200)
    events.add([of_tenant("greedy", i) for i in range(300)], {}, 0.0)
    assert events.lost["events_full"] == 100
    assert len(written(events, 0.0)) == BURST
    events.add([of_tenant("modest", 1)], {}, 0.1)
    assert "modest" in {write.namespace for write in written(events, 0.5)}, "the next token is its own"
    assert len(events) == 200


def test_room_is_given_up_by_who_has_the_most_and_what_is_lost_is_counted() -> None:
    events = series(limit=10)
    events.add([of_tenant("greedy", i) for i in range(10)], {}, 0.0)
    events.add([of_tenant("modest", i) for i in range(10)], {}, 1.0)
    assert len(events) == 10
    assert events.lost["events_full"] == 10
    namespaces = [write.namespace for write in written(events, 2.0)]
    assert (namespaces.count("greedy"), namespaces.count("modest")) == (5, 5)
    assert namespaces[:4] == ["greedy", "modest", "greedy", "modest"]
