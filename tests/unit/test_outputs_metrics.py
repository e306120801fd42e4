"""Metrics and the HTTP side, scraped over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from agent.errors import DagwallError
from agent.model.flow import FailedLookup, PeerKind, PeerName, Tuple
from agent.model.node_state import View
from agent.model.report import DenialRow
from agent.model.verdict import Direction, DropReason, Verdict
from agent.outputs.bounded import Room
from agent.outputs.http import REQUESTS, HttpServer, app, split_address
from agent.outputs.latest import problems
from agent.outputs.metrics import Metrics
from agent.outputs.series import GONE_SECONDS, LookupSeries, TaskSeries
from tests.unit.seen import NUMBER, STATE, TOTALS, VIEW, WORLD, endpoint, flow, unready


def denied(number: int) -> DenialRow:
    return DenialRow(number, DropReason.NO_RULE, None, Direction.EGRESS, Verdict.DENY, 1, 60)


def counted(**totals: Any) -> View:
    return replace(VIEW, totals=replace(TOTALS, **totals))


class Scraped:
    """Metrics behind a server whose view tests replace."""

    def __init__(self, series: int = 100) -> None:
        self.view: View | None = VIEW
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, lambda: self.view, series=series)
        unready = lambda: problems(self.view.state) if self.view else ("starting",)  # noqa: E731
        self.lacking: tuple[str, ...] = ()
        said = app(self.registry, dead=tuple, unready=unready, lacking=lambda: self.lacking)
        self.server = HttpServer("127.0.0.1:0", said)
        self.server.start()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def value(self, name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return None


@pytest.fixture
def scraped() -> Iterator[Scraped]:
    served = Scraped()
    yield served
    served.server.stop()


def test_task_series_add_up_by_names(scraped: Scraped) -> None:
    scraped.metrics.flows([flow(address="192.0.2.1"), flow(address="192.0.2.2")])
    who = {"namespace": "airflow", "dag_id": "finance", "task_id": "load", "service_account": "etl"}
    whom = {"peer": "world", "direction": "egress"}
    assert scraped.value("dagwall_task_bytes_total", **who, **whom, traffic="sent") == 600
    assert scraped.value("dagwall_task_bytes_total", **who, **whom, traffic="received") == 10000
    assert scraped.value("dagwall_task_packets_total", **who, **whom, traffic="sent") == 6
    assert scraped.value("dagwall_task_connections_total", **who, **whom) == 2
    assert "192.0.2" not in scraped.get("/metrics")[1]


def test_what_the_kernel_counts_is_reported_as_it_is(scraped: Scraped) -> None:
    assert scraped.value("dagwall_task_denied_total", dag_id="finance", reason="no_rule", verdict="deny") == 9
    assert scraped.value("dagwall_identity_bytes_total", dag_id="finance", traffic="received") == 5000


def test_identities_with_equal_names_are_one_series(scraped: Scraped) -> None:
    other = replace(TOTALS.identities[0], number=NUMBER + 1, ambiguous=True)
    scraped.view = counted(identities=(*TOTALS.identities, other), denials=(*TOTALS.denials, denied(NUMBER + 1)))
    assert scraped.value("dagwall_task_denied_total", dag_id="finance") == 10
    assert scraped.value("dagwall_identity_bytes_total", dag_id="finance", traffic="sent") == 600
    samples = [line for line in scraped.get("/metrics")[1].splitlines() if not line.startswith("#")]
    assert len({line.rsplit(" ", 1)[0] for line in samples}) == len(samples)


def test_the_agent_speaks_about_itself(scraped: Scraped) -> None:
    assert scraped.value("dagwall_ready") == 1
    assert scraped.value("dagwall_map_entries", map="rules") == 100
    assert scraped.value("dagwall_map_pressure", map="rules") == 0.1
    assert scraped.value("dagwall_losses_total", reason="flows_quota") == 4
    assert scraped.value("dagwall_endpoints", state="managed") == 1
    assert scraped.value("dagwall_feature", feature="set_retval") == 1
    assert scraped.value("dagwall_hook_attached", hook="egress", root="/kubepods") == 1
    assert scraped.value("dagwall_policy_revision") == 7
    assert scraped.value("dagwall_policy_programmed_revision") == 6
    assert scraped.value("dagwall_invalid_objects") == 1
    assert scraped.value("dagwall_unenforceable_pods", reason="NET_RAW") == 1
    assert scraped.value("dagwall_outside_containers") == 0
    assert scraped.value("dagwall_repaired_entries_total") == 3
    assert scraped.value("dagwall_start_to_enforcing_seconds") == 0.8
    assert scraped.value("dagwall_build_info", version="0.1.0", bcc="0.26.0", kernel="6.1.0") == 1


def test_histograms_take_what_the_agent_measures(scraped: Scraped) -> None:
    scraped.metrics.report(replace(STATE, policy_seconds=(0.004,), pending_seconds=(0.3,)))
    scraped.metrics.report(STATE)
    assert scraped.value("dagwall_policy_latency_seconds_bucket", le="0.005") == 1
    assert scraped.value("dagwall_pending_seconds_sum") == 0.3


def test_one_namespace_never_takes_the_series_of_all() -> None:
    """One task can name any number of peers."""
    series = TaskSeries(100)
    series.add([flow(peer=PeerName(PeerKind.POD, f"p{n}")) for n in range(1000)])
    other = endpoint("other")
    other = replace(other, identity=replace(other.identity, namespace="etl"))
    series.add([replace(flow(), endpoint=other)])
    found = series.snapshot()
    assert sum(key[0] == "airflow" for key in found) == 50
    assert sum(key[0] == "etl" for key in found) == 1
    assert series.overflowed == 950


def test_series_of_identities_that_have_gone_go_and_others_stay() -> None:
    now = [0.0]
    series = TaskSeries(20, lambda: now[0])
    series.add([flow("old"), flow("new")])
    here = {key[:4] for key in series.snapshot() if "new" in key}
    for now[0] in (0.0, 60.0, 3000.0):
        series.forget(here)
    assert len(series.snapshot()) == 2
    now[0] = 4000.0
    series.forget(here)
    assert {key[:4] for key in series.snapshot()} == here
    series.add([flow(f"d{n}") for n in range(9)])
    assert series.overflowed == 0, "their room is others' now"


def test_tasks_that_have_gone_make_room_for_new_ones_before_their_time() -> None:
    """As many tasks as there is room for, again and again within one GONE_SECONDS."""
    now = [0.0]
    series = TaskSeries(5000, lambda: now[0])
    for batch in range(4):
        now[0] += 300.0
        series.add([flow(f"{batch}-{n}") for n in range(2500)])
        assert series.overflowed == 0, batch
        series.forget([])
    other = replace(endpoint("other"), identity=replace(endpoint("other").identity, namespace="etl"))
    series.add([replace(flow(peer=PeerName(PeerKind.POD, f"p{n}")), endpoint=other) for n in range(2500)])
    assert series.overflowed == 0, "what has gone of one namespace is another's room"
    series.add([flow(f"new-{n}") for n in range(1251)])
    assert series.overflowed == 1, "half of what the other left; who is here gives none up"


def test_denials_share_their_series_by_namespace_and_keep_them() -> None:
    """One namespace's tasks with every kind of denial leave the others theirs, in whatever order they are read."""
    served = Scraped(series=40)
    rows = TOTALS.identities[0]
    tenant = [replace(rows, number=n, dag_id=f"d{n}") for n in range(100)]
    other = replace(rows, number=100, namespace="etl")
    every = [denied(row.number) for row in (*tenant, other)]
    try:
        identities = (*tenant, other)
        served.view = counted(identities=identities, denials=tuple(every))
        assert served.value("dagwall_task_denied_total", namespace="etl") == 1
        assert served.value("dagwall_task_denied_total", dag_id="_overflow") == 80
        kept = served.value("dagwall_task_denied_total", dag_id="d0")
        served.view = counted(identities=identities, denials=tuple(reversed(every)))
        assert served.value("dagwall_task_denied_total", dag_id="d0") == kept == 1
        assert served.value("dagwall_task_denied_total", dag_id="_overflow") == 80
        served.view = counted(identities=identities, denials=tuple(every[90:]))
        assert served.value("dagwall_task_denied_total", dag_id="_overflow") is None, (
            "room of what has gone is others'"
        )
    finally:
        served.server.stop()


def failed(dag: str, rcode: str = "NXDOMAIN") -> FailedLookup:
    server = Tuple(ip_address("10.96.0.10"), 17, 53, Direction.EGRESS)
    return FailedLookup(1.0, endpoint(dag), server, WORLD, "db.internal", "A", rcode)


def test_names_that_were_asked_for_in_vain_are_counted_by_task_and_answer(scraped: Scraped) -> None:
    scraped.metrics.lookups([failed("finance"), failed("finance"), failed("finance", "SERVFAIL"), failed("sales")])
    value = lambda dag, rcode: scraped.value("dagwall_task_dns_failures_total", dag_id=dag, rcode=rcode)  # noqa: E731
    assert [value("finance", "NXDOMAIN"), value("finance", "SERVFAIL"), value("sales", "NXDOMAIN")] == [2, 1, 1]


def test_series_of_lookups_are_bounded_and_go_with_their_identity() -> None:
    now = [0.0]
    series = LookupSeries(10, lambda: now[0])
    series.add(failed(f"dag{n}") for n in range(20))
    counts = series.snapshot()
    assert (len(counts), sum(counts.values())) == (6, 20), "a namespace takes as many as it leaves, and one overflow"
    series.forget(())
    now[0] = GONE_SECONDS + 1
    series.forget(())
    assert list(series.snapshot()) == [("_overflow",) * 4 + ("NXDOMAIN",)]


def test_the_process_is_measured_and_its_language_is_not_told(scraped: Scraped) -> None:
    text = scraped.get("/metrics")[1]
    assert (scraped.value("process_resident_memory_bytes") or 0) > 1e6
    assert (scraped.value("process_open_fds") or 0) > 3
    assert "python" not in text.lower()


def test_series_beyond_the_limit_overflow_visibly_and_for_good() -> None:
    served = Scraped(series=6)
    try:
        served.metrics.flows([flow(f"dag{n}") for n in range(10)])
        served.metrics.flows([flow(f"dag{n}") for n in range(10)])
        assert served.value("dagwall_task_connections_total", dag_id="dag2") == 2
        assert served.value("dagwall_task_connections_total", dag_id="dag3") is None
        assert served.value("dagwall_task_connections_total", dag_id="_overflow", peer="_overflow") == 14
        assert served.value("dagwall_metric_series_overflow_total") == 14
    finally:
        served.server.stop()


def test_hostile_ids_are_only_text(scraped: Scraped) -> None:
    name = 'a"} 1\ndagwall_ready 0\n#\\'
    scraped.metrics.flows([flow(name, peer=PeerName(PeerKind.POD, name))])
    assert scraped.value("dagwall_task_connections_total", dag_id=name) == 1
    assert scraped.value("dagwall_ready") == 1


def test_every_family_says_what_it_is(scraped: Scraped) -> None:
    lines = scraped.get("/metrics")[1].splitlines()
    helped = {line.split()[2] for line in lines if line.startswith("# HELP") and len(line.split()) > 4}
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name for name in typed if not name.endswith("_created")} <= helped


def test_readiness_names_the_problems(scraped: Scraped) -> None:
    assert scraped.get("/readyz") == (200, "ok\n")
    scraped.view = unready(hooks="not attached to /kubepods", revision="revision refused")
    assert scraped.get("/readyz") == (503, "not attached to /kubepods\nrevision refused\n")
    scraped.lacking = ("off on this node: sockops",)
    assert scraped.get("/readyz")[1].endswith("revision refused\noff on this node: sockops\n")
    scraped.view = VIEW
    assert scraped.get("/readyz") == (200, "ok\noff on this node: sockops\n")
    scraped.view, scraped.lacking = None, ()
    assert scraped.get("/readyz") == (503, "starting\n")
    assert scraped.get("/livez") == (200, "ok\n")
    assert scraped.get("/metrics")[0] == 200
    assert scraped.get("/secret")[0] == 404


def test_a_defect_is_a_500_and_the_server_goes_on(scraped: Scraped) -> None:
    broken = replace(TOTALS.denials[0], packets=None)  # type: ignore[arg-type]
    scraped.view = counted(denials=(broken,))
    assert scraped.get("/metrics") == (500, "failed: see the agent's log\n")
    scraped.view = VIEW
    assert scraped.get("/metrics")[0] == 200


def test_a_client_that_says_nothing_holds_up_nobody(scraped: Scraped) -> None:
    with socket.create_connection(("127.0.0.1", scraped.server.port)):
        assert scraped.get("/livez")[0] == 200


def test_an_address_that_is_taken_is_said(scraped: Scraped) -> None:
    with pytest.raises(DagwallError, match=r"serve metrics on 127\.0\.0\.1:\d+: Address already in use"):
        HttpServer(f"127.0.0.1:{scraped.server.port}", lambda _, __: [])


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:9990", ("127.0.0.1", 9990)), ("[::1]:0", ("::1", 0)), (":9990", ("", 9990)), ("n1:1", ("n1", 1))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


def connected(scraped: Scraped) -> socket.socket:
    return socket.create_connection(("127.0.0.1", scraped.server.port), timeout=5)


def test_connections_that_never_ask_do_not_keep_others_out(scraped: Scraped) -> None:
    """Far more than there is room for, each with an unfinished question; who asks at once is answered."""
    slow = [connected(scraped) for _ in range(3 * REQUESTS)]
    for each in slow:
        with contextlib.suppress(OSError):
            each.sendall(b"GET /livez HTTP/1.1\r\nX-Slow: ")
    for _ in range(5):
        assert scraped.get("/livez") == (200, "ok\n")
    for each in slow:
        each.close()


def test_who_comes_while_those_that_were_cut_are_still_ending_waits_for_them() -> None:
    """On a busy machine their threads take a moment; a probe must not be turned away for it."""
    room, pairs = Room(limit=1, seconds=5.0, whole=True), [socket.socketpair() for _ in range(3)]
    first, second, third = (ours for ours, _ in pairs)
    assert room.enter(first)
    assert room.enter(second)
    threading.Timer(0.1, room.leave, [first]).start()
    assert room.enter(third), "the first one's thread has ended meanwhile"
    for pair in pairs:
        for each in pair:
            each.close()


def test_a_connection_that_drips_ends_at_its_deadline(scraped: Scraped) -> None:
    """One byte now and then: a limit for each read alone would never come."""
    scraped.server.room.seconds = 0.5

    def drip(connection: socket.socket) -> None:
        for _ in range(100):
            connection.sendall(b"G")
            time.sleep(0.05)

    began = time.monotonic()
    with connected(scraped) as connection, pytest.raises(OSError, match=r"Broken pipe|reset"):
        drip(connection)
    assert time.monotonic() - began < 2


def test_a_moment_without_threads_costs_that_moment_only(scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", start)
        for _ in range(3 * REQUESTS):
            with connected(scraped) as refused, contextlib.suppress(ConnectionResetError):
                assert refused.recv(1) == b""
    assert scraped.get("/livez") == (200, "ok\n")


def test_probes_alone_show_no_metrics_and_no_answer_names_python() -> None:
    server = HttpServer("127.0.0.1:0", app(None, dead=tuple, unready=tuple, lacking=tuple), "probes")
    server.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=5) as answer:
            assert (answer.status, answer.headers["Server"]) == (200, "dagwall")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5)
    finally:
        server.stop()


@pytest.mark.parametrize("text", ["", "9990", "host:", "host:x", "host:65536", "::1:99", "host:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address(text)
