"""What became of connections: from the kernel's record to words, next steps and series."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from immutables import Map
from prometheus_client import CollectorRegistry

from agent.abi.structs import CALL, EVENT, OUTCOME, pack_address
from agent.flows.decode import RawEvent, RawOutcome, decode_record
from agent.flows.join import Context, Joiner
from agent.flows.names import PeerNames
from agent.flows.unanswered import MOST, PATIENCE_SECONDS, Unanswered
from agent.model.cluster import Cluster
from agent.model.flow import NO_ANSWER, FailedLookup, Flow, FlowCounts, Outcome, Timing, Tuple
from agent.model.verdict import Cause, Direction, EventKind, Hook
from agent.outputs.explained import explanations
from agent.outputs.explanation import Step
from agent.outputs.metrics import Metrics
from agent.outputs.outcome_series import OutcomeSeries
from agent.outputs.outcomes import cause_name, detail_name, outcome_text, timing_text
from agent.outputs.recent import Recent
from agent.outputs.records import Filter, record_of
from agent.outputs.series import GONE_SECONDS
from agent.outputs.why import why_of
from tests.unit.seen import NUMBER, TIMING, VIEW, denial, endpoint, flow, outcome

WHO = {
    "time_ns": 5_000_000_000, "cgroup_id": 4711, "task_cgroup_id": 0, "ancestors": (0, 0), "socket_cookie": 6,
    "peer": pack_address(ip_address("192.0.2.9")), "service_port": 443, "client_port": 40001, "protocol": 6,
    "direction": 0, "verdict": 1, "reason": 0, "rule": 0, "identity": NUMBER, "slot": 3, "pid": 41, "length": 0,
    "kind": EventKind.OUTCOME, "hook": Hook.SOCKOPS, "family": 0, "pad": b"\0",
}  # fmt: skip


def packed(**fields: object) -> bytes:
    event = {name: fields.pop(name, value) for name, value in WHO.items()}
    rest = {"comm": b"python3".ljust(16, b"\0"), "began_ns": 2_500_000_000, "established_ns": 2_501_000_000,
            "answered_ns": 2_751_000_000, "rtt_us": 500, "retransmits": 1, "detail": 0, "cause": 1,
            "pad": b"\0" * 5} | fields  # fmt: skip
    return OUTCOME.pack(event=EVENT.pack(**event), **rest)


def joined(record: bytes, **context: object) -> Outcome:
    raw = decode_record(record)
    assert isinstance(raw, RawOutcome)
    facts = endpoint()
    known = Context(Cluster(), Map({3: facts}), Map({4711: facts}), Map(), **context)  # type: ignore[arg-type]
    return Joiner(PeerNames().name, lambda: 0.0).outcome(raw, known, 3.5)


def test_a_record_becomes_a_value_with_names_and_times() -> None:
    got = joined(packed())
    assert (got.cause, got.endpoint, got.pid, got.comm, got.source_port) == (
        Cause.REFUSED,
        endpoint(),
        41,
        "python3",
        40001,
    )
    assert got.tuple == Tuple(ip_address("192.0.2.9"), 6, 443, Direction.EGRESS)
    assert got.timing == TIMING


def test_what_never_came_so_far_has_no_time() -> None:
    got = joined(packed(established_ns=0, answered_ns=0, rtt_us=0, retransmits=0))
    assert got.timing == Timing(lasted=2.5)
    assert timing_text(got) == ""


def test_of_a_pod_that_was_pending_at_connect_the_folder_tells() -> None:
    assert joined(packed(identity=0, slot=0)).endpoint == endpoint()


def test_a_cause_of_a_newer_release_and_a_name_of_any_bytes_are_read() -> None:
    got = joined(packed(cause=99, comm=b"\xff\x1b[2J".ljust(16, b"\0")))
    assert (got.cause, got.comm) == (Cause.UNKNOWN, "\ufffd\x1b[2J")
    assert got.failed


def test_a_call_s_record_has_the_name_of_its_process() -> None:
    event = WHO | {"kind": EventKind.DENIED, "verdict": 0, "reason": 1, "hook": Hook.CONNECT}
    got = decode_record(CALL.pack(event=EVENT.pack(**event), comm=b"curl".ljust(16, b"\0")))
    assert isinstance(got, RawEvent)
    assert (got.comm, got.pid) == ("curl", 41)
    plain = decode_record(EVENT.pack(**event))
    assert isinstance(plain, RawEvent)
    assert plain.comm == ""


TEXTS = {
    "refused": (outcome(), "", Step.CHECK_LISTENER, "refused: TCP to 192.0.2.9:443 (world), nothing listens there"),
    "unreachable": (outcome(Cause.UNREACHABLE, 113), "EHOSTUNREACH", Step.CHECK_ROUTE, "No route to host"),
    "given up": (outcome(Cause.SYN_TIMEOUT), "", Step.CHECK_OTHER_FIREWALLS, "in 2.5 s, then the task gave up"),
    "timed out": (outcome(Cause.SYN_TIMEOUT, 110), "", Step.CHECK_OTHER_FIREWALLS, "no answer to 2 SYN in 2.5 s"),
    "reset": (outcome(Cause.RESET, 104), "", Step.CHECK_SERVER, "by the peer after 2.5 s"),
    "closed early": (outcome(Cause.CLOSED_EARLY), "", Step.CHECK_SERVER, "before it sent a byte"),
    "stalled": (outcome(Cause.STALLED, 110), "ETIMEDOUT", Step.CHECK_ROUTE, "Connection timed out after 2.5 s"),
    "TLS": (outcome(Cause.TLS_ALERT, 48), "unknown_ca", Step.CHECK_TLS, "the peer answered unknown_ca"),
    "TLS, new": (outcome(Cause.TLS_ALERT, 200), "200", Step.CHECK_TLS, "the peer answered 200"),
    "401": (outcome(Cause.HTTP_STATUS, 401), "401", Step.CHECK_CREDENTIALS, "HTTP: TCP to 192.0.2.9:443"),
    "403": (outcome(Cause.HTTP_STATUS, 403), "403", Step.CHECK_PERMISSION, "the peer answered 403"),
    "407": (outcome(Cause.HTTP_STATUS, 407), "407", Step.CHECK_PROXY, "the peer answered 407"),
    "429": (outcome(Cause.HTTP_STATUS, 429), "429", Step.SLOW_DOWN, "the peer answered 429"),
    "502": (outcome(Cause.HTTP_STATUS, 502), "502", Step.CHECK_SERVER, "the peer answered 502"),
    "newer": (outcome(Cause.UNKNOWN), "", Step.CHECK_SERVER, "a cause that this one does not know"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_each_cause_in_words_and_its_next_step(name: str) -> None:
    seen, detail, step, says = TEXTS[name]
    (found,) = explanations([seen], Filter(), Cluster(), 10)
    why = why_of(found)
    assert (detail_name(seen), found.steps) == (detail, (step,))
    assert says in why.text
    assert (why.cause, why.reason, why.verdict, why.pid, why.comm) == (
        cause_name(seen),
        cause_name(seen),
        "allow",
        41,
        "python3",
    )
    assert why.next[0]
    assert why.notes[0] == (
        "let pass by finance-egress/api; handshake 1.0 ms, first byte after 250.0 ms, round trip 0.5 ms, "
        "1 segments sent again"
    )
    assert record_of(seen).text == why.text == outcome_text(seen)


def test_each_cause_has_a_text() -> None:
    assert {seen.cause for seen, *_ in TEXTS.values()} == set(Cause) - {Cause.NONE}


def test_equal_failures_are_folded_and_statuses_kept_apart() -> None:
    seen = [outcome(time=1), outcome(time=2), outcome(Cause.HTTP_STATUS, 401), outcome(Cause.HTTP_STATUS, 403),
            outcome(Cause.SYN_TIMEOUT), outcome(Cause.SYN_TIMEOUT, 110)]  # fmt: skip
    found = explanations(seen, Filter(), Cluster(), 10)
    assert sorted(each.events for each in found) == [1, 1, 2, 2]


def test_denials_come_before_failures() -> None:
    found = explanations([outcome(time=9), denial(time=1)], Filter(), Cluster(), 10)
    assert [why_of(each).cause for each in found] == ["denied", "refused"]


def test_only_failures_are_remembered() -> None:
    recent = Recent()
    with recent.follow(Filter()) as follower:
        recent.outcomes([outcome(Cause.NONE), outcome()])
        assert follower.take(0) == ([outcome()], 0)
    assert recent.last(Filter(), 10) == [outcome()]
    assert recent.last_failed(Filter()) == [outcome()]


def test_series_have_failures_and_times() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, lambda: VIEW, series=100)
    metrics.outcomes([outcome(), outcome(), outcome(Cause.HTTP_STATUS, 403), outcome(Cause.NONE)])
    who = {"namespace": "airflow", "dag_id": "finance", "task_id": "load", "service_account": "etl"}
    failures = "dagwall_task_connection_failures_total"
    assert registry.get_sample_value(failures, who | {"cause": "refused", "detail": ""}) == 2
    assert registry.get_sample_value(failures, who | {"cause": "http_status", "detail": "403"}) == 1
    trips, answers = "dagwall_task_round_trip_seconds", "dagwall_task_first_byte_seconds"
    assert registry.get_sample_value(f"{trips}_count", who) == 4
    assert registry.get_sample_value(f"{trips}_bucket", who | {"le": "0.0005"}) == 4
    assert registry.get_sample_value(f"{answers}_bucket", who | {"le": "0.1"}) == 0
    assert registry.get_sample_value(f"{answers}_bucket", who | {"le": "0.25"}) == 4
    assert registry.get_sample_value(f"{answers}_sum", who) == 1.0


def test_series_are_bounded_and_go_with_their_identity() -> None:
    now = [0.0]
    series = OutcomeSeries(8, lambda: now[0])
    series.add(outcome(dag=f"d{n}") for n in range(20))
    samples = [sample for family in series.families() for sample in family.samples]
    assert len([s for s in samples if s.name.endswith("failures_total")]) == 5
    assert sum(s.value for s in samples if s.name.endswith("failures_total")) == 20
    assert len([s for s in samples if s.name.endswith("trip_seconds_count")]) == 2
    series.forget(set())
    now[0] = GONE_SECONDS + 1
    series.forget(set())
    left = {s.labels["dag_id"] for family in series.families() for s in family.samples}
    assert left == {"_overflow"}


def asked(sent: int, received: int, *, port: int = 53) -> Flow:
    seen = flow(address="10.96.0.10", port=port, protocol=17)
    return replace(seen, counts=FlowCounts(sent, 60 * sent, received, 60 * received, 0))


def look(unanswered: Unanswered, flows: list[Flow], now: float) -> list[FailedLookup]:
    return unanswered.look(flows, now, lambda address: str(address) == "10.96.0.10")


def test_a_server_that_stays_silent_is_told_once() -> None:
    unanswered = Unanswered()
    assert look(unanswered, [asked(1, 0)], 0) == []
    assert look(unanswered, [asked(1, 0)], PATIENCE_SECONDS - 1) == []
    (failed,) = look(unanswered, [], PATIENCE_SECONDS)
    assert (failed.rcode, failed.name, failed.server.service_port) == (NO_ANSWER, "", 53)
    assert look(unanswered, [], 100) == []
    (found,) = explanations([failed], Filter(), Cluster(), 10)
    assert why_of(found).text == "no answer: the DNS server world (10.96.0.10) was asked and is silent"
    assert found.steps == (Step.CHECK_RESOLVER,)


def test_an_answer_ends_the_wait_and_other_flows_are_not_waited_for() -> None:
    unanswered = Unanswered()
    look(unanswered, [asked(1, 0), asked(1, 0, port=123), replace(asked(1, 0), verdict=flow().verdict)], 0)
    look(unanswered, [asked(0, 1)], 3)
    assert look(unanswered, [], 100) == []
    elsewhere = replace(asked(1, 0), tuple=replace(asked(1, 0).tuple, peer=ip_address("203.0.113.9")))
    look(unanswered, [elsewhere], 200)
    assert look(unanswered, [], 300) == []


def test_so_many_are_waited_for_and_no_more() -> None:
    unanswered = Unanswered()
    flows = [replace(asked(1, 0), endpoint=replace(endpoint(), uid=str(n))) for n in range(MOST + 10)]
    look(unanswered, flows, 0)
    assert len(look(unanswered, [], 10)) == MOST
