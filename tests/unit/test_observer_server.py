"""Hubble's services over real sockets, asked by a client that protoc made: questions, followers, bounds."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from immutables import Map

from agent.errors import DagwallError
from agent.model.cluster import Cluster, Namespace, Node, Settings
from agent.outputs.hubble import documents_of
from agent.outputs.observer import places
from agent.outputs.observer.ring import FOLLOWED, Ring
from agent.outputs.observer.server import HubbleServer
from tests.hubble_client import HubbleClient, as_json
from tests.unit.seen import STATE, denial, flow
from tests.unit.test_outputs_hubble import FAILED, SHAPES

NODES = Map({"n1": Node("n1", (ip_address("192.0.2.1"),)), "n2.lan": Node("n2.lan", (ip_address("2001:db8::2"),))})
IN_CLUSTER = replace(
    STATE,
    cluster=Cluster(
        settings=Settings(cluster="prod"), nodes=NODES,
        namespaces=Map({"etl": Namespace("etl", managed=True), "kube-system": Namespace("kube-system")}),
    ),
)  # fmt: skip


class Observed:
    """A server on a socket, and a client of it."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.path = folder / "run" / "hubble.sock"
        self.server = HubbleServer("n1", **{"socket": self.path, "flows": 100, **how})
        self.server.start()
        self.client = HubbleClient(f"unix:{self.path}")

    def another(self) -> HubbleClient:
        return HubbleClient(f"unix:{self.path}")

    def stop(self) -> None:
        self.client.close()
        self.server.stop()


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    found = Observed(tmp_path)
    yield found
    found.stop()


def eventually(check: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not check() and time.monotonic() < deadline:
        time.sleep(0.01)
    return check()


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()  # type: ignore[attr-defined]


def times(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["time"].rpartition(":")[2].removesuffix("Z") for answer in answers]


def filled(value: Any) -> Any:
    """Without what protobuf leaves out, and with as many digits of a second as it writes."""
    if isinstance(value, dict):
        kept = {
            key: filled(each)
            for key, each in value.items()
            if each not in ("", 0, False, [], {}) or key == "is_reply"
        }
        return {key: each.replace("000Z", "Z") if key == "time" else each for key, each in kept.items()}
    return [filled(each) for each in value] if isinstance(value, list) else value


def test_what_a_client_gets_is_the_line_of_the_log(observed: Observed) -> None:
    """Every shape, field by field, over the wire and by another's tables."""
    for number, seen in enumerate((*SHAPES.values(), FAILED)):
        moment = replace(seen, time=1_700_000_000.123 + number)
        observed.server.flows([moment])  # type: ignore[list-item]
        written = documents_of(moment, "n1", __import__("agent").__version__)
        got = observed.client.flows(number=len(written))
        assert [filled(each) for each in got] == [filled(each) for each in written]


def test_last_first_since_and_until(observed: Observed) -> None:
    observed.server.flows([flow(time=second) for second in (5.0, 1.0, 3.0)])
    observed.server.denials([denial(time=4.0)])
    observed.server.flows([flow(time=2.0)])
    ask = observed.client.flows
    assert times(ask()) == ["01", "02", "03", "04", "04", "05"]
    assert times(ask(number=2)) == ["04", "05"]
    assert times(ask(number=2, first=True)) == ["01", "02"]
    assert times(ask(since="1970-01-01T00:00:03Z")) == ["03", "04", "04", "05"]
    assert times(ask(since="1970-01-01T00:00:03Z", number=1, first=True)) == ["03"]
    assert times(ask(until="1970-01-01T00:00:02.5Z")) == ["01", "02"]
    assert times(ask(since="1970-01-01T00:00:02Z", until="1970-01-01T00:00:03Z", number=9)) == ["02", "03"]
    assert times(ask(number=1, whitelist=[{"verdict": ["DROPPED"]}])) == ["04"]
    assert times(ask(blacklist=[{"verdict": ["DROPPED"]}, {"source_ip": ["10.0.0.8"]}])) == ["01", "02", "03", "05"]


def test_the_ring_is_bounded_and_the_status_says_so(observed: Observed) -> None:
    observed.server.flows([flow(time=time.time()) for _ in range(60)])
    observed.server.denials([denial(time=time.time()) for _ in range(45)])
    status = as_json(observed.client.observer.ServerStatus(observed.client.messages.ServerStatusRequest()))
    assert (status["num_flows"], status["max_flows"], status["seen_flows"]) == ("100", "100", "150")
    assert status["version"].startswith("dagwall v")
    assert int(status["uptime_ns"]) > 0
    assert status["flows_rate"] > 0
    assert len(observed.client.flows()) == 100


def test_a_client_may_ask_for_some_fields(observed: Observed) -> None:
    observed.server.flows([flow()])
    (answer,) = observed.client.flows(field_mask="verdict,source.podName,ethernet")
    assert answer["flow"] == {"verdict": "FORWARDED", "source": {"pod_name": "finance-load-x1"}}
    (answer,) = observed.client.flows(field_mask="ethernet")
    assert answer["flow"] == {}


def test_a_follower_gets_what_comes_and_what_it_asked_for_before(observed: Observed) -> None:
    observed.server.flows([flow(time=1.0), flow(time=2.0)])
    new = observed.client.stream(follow=True)
    also = observed.another().stream(follow=True, number=1, whitelist=[{"verdict": ["FORWARDED"]}])
    assert times([as_json(next(also))]) == ["02"]
    time.sleep(0.2)
    observed.server.denials([denial(time=3.0)])
    observed.server.flows([flow(time=4.0)])
    assert times([as_json(next(new)) for _ in range(3)]) == ["03", "03", "04"]
    assert times([as_json(next(also))]) == ["04"]


def test_following_ends_some_time_after_until(observed: Observed) -> None:
    """What is read from the kernel later still counts: not at once."""
    observed.server.flows([flow(time=1.0)])
    assert times(observed.client.flows(follow=True, number=5, until="1970-01-01T00:00:09Z")) == ["01"]


def test_a_slow_follower_loses_the_oldest_is_told_and_holds_up_nobody(observed: Observed) -> None:
    slow = observed.client.stream(timeout=60, follow=True)
    quick = observed.another().stream(timeout=60, follow=True, whitelist=[{"destination_port": ["1"]}])
    time.sleep(0.3)
    longest = 0.0
    for first in range(0, 3 * FOLLOWED, 1000):
        batch = [flow(time=float(n)) for n in range(first, first + 1000)]
        began = time.perf_counter()
        observed.server.flows(batch)
        longest = max(longest, time.perf_counter() - began)
    observed.server.flows([flow(time=99.0, port=1)])
    assert longest < 0.5, "the draining thread waited for a client"
    found = next(answer for answer in (as_json(each) for each in quick) if "flow" in answer)
    assert found["flow"]["l4"]["TCP"]["destination_port"] == 1
    got, answer = 0, as_json(next(slow))
    while "flow" in answer:
        got, answer = got + 1, as_json(next(slow))
    assert (answer["lost_events"]["source"], answer["node_name"]) == ("HUBBLE_RING_BUFFER", "default/n1")
    lost = int(answer["lost_events"]["num_events_lost"])
    assert lost > 0
    assert times([as_json(next(slow))]) == [f"{(got + lost) % 60:02}"], "not the oldest, or another number of them"
    assert observed.server.losses()["hubble_followers"] >= lost


def test_a_ring_counts_what_each_follower_lost() -> None:
    ring = Ring(10)
    ring.add([denial()])
    assert (len(ring), ring.seen, len(ring.last()[0])) == (2, 2, 2)
    place = ring.seen
    ring.add([flow(time=float(n)) for n in range(FOLLOWED + 5)])
    first = ring.after(place, 3, 0)
    assert (first.lost, [entry[0].time for entry in first.entries]) == (5, [5.0, 6.0, 7.0])
    rest = ring.after(first.place, FOLLOWED, 0)
    assert (rest.lost, len(rest.entries), rest.place) == (0, FOLLOWED - 3, ring.seen)
    assert ring.after(rest.place, 3, 0.01).entries == []
    assert len(ring.last()[0]) == 10


def test_there_are_so_many_streams_and_questions_are_still_answered(tmp_path: Path) -> None:
    observed = Observed(tmp_path, streams=3)
    clients = [observed.another() for _ in range(4)]
    streams = [client.stream(follow=True) for client in clients[:3]]
    time.sleep(0.5)
    code, text = refusal(lambda: next(clients[3].stream(follow=True)))
    assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "3 streams are served at once")
    assert observed.client.observer.ServerStatus(observed.client.messages.ServerStatusRequest()).max_flows == 100
    streams[0].cancel()

    def served() -> bool:
        try:
            return clients[3].flows() == []
        except grpc.RpcError:
            return False

    assert eventually(served), "the place of one that went is free"
    for client in clients:
        client.close()
    observed.stop()


def test_a_client_that_takes_nothing_gives_its_place_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr(places, "RATE", 1.0)
    observed = Observed(tmp_path, streams=1)
    stalled = observed.another().stream(timeout=60, follow=True)
    time.sleep(0.3)
    observed.server.flows([flow("d" * 6000) for _ in range(400)])  # more than the connection's buffers take
    place = next(iter(observed.server._places._taken))
    assert eventually(lambda: place.stalled_since is not None and time.monotonic() - place.stalled_since > 0.3, 20)
    assert len(observed.client.flows(number=1)) == 1
    code, _ = refusal(lambda: list(stalled))
    assert code is grpc.StatusCode.CANCELLED
    observed.stop()


def test_clients_together_take_a_share_of_the_processor(observed: Observed) -> None:
    """Two questions for everything, again and again, are answered at the pace of the purse."""
    observed.server.flows([flow() for _ in range(100)])
    stop, answered = threading.Event(), [0, 0]

    def ask(number: int, client: HubbleClient) -> None:
        while not stop.is_set():
            client.flows()
            answered[number] += 1

    threads = [threading.Thread(target=ask, args=(n, observed.another())) for n in range(2)]
    turns = observed.server._service._turns
    paid: list[float] = []
    monkey, turns._pay = turns._pay, lambda seconds: (paid.append(seconds), monkey(seconds))[1]  # type: ignore[method-assign,func-returns-value]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(8)
    stop.set()
    for thread in threads:
        thread.join(30)
    took = time.monotonic() - began
    assert min(answered) > 0
    assert sum(paid) < places.MOST_SECONDS + places.RATE * took + 1


def test_bad_requests_are_refused_by_what_is_wrong(observed: Observed) -> None:
    ask, bad = observed.client.flows, grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(lambda: ask(whitelist=[{"http_status_code": ["200"]}])) == (
        bad, "filter http_status_code: dagwall's flows have no such value"
    )  # fmt: skip
    assert refusal(lambda: ask(blacklist=[{"experimental": {"cel_expression": ["true"]}}]))[0] is bad
    code, text = refusal(lambda: ask(whitelist=[{"of_a_newer_release": ["x"]}]))
    assert (code, text) == (bad, "filter FlowFilter field 41: dagwall does not know it")
    assert refusal(lambda: ask(first=True, follow=True)) == (bad, "first and follow exclude each other")
    raw = observed.client.channel.unary_stream("/observer.Observer/GetFlows")
    code, text = refusal(lambda: list(raw(b"\xff\xff\xff", timeout=5)))
    assert (code, text.partition(": ")[0]) == (bad, "observer.GetFlowsRequest")
    unknown = observed.client.channel.unary_unary("/observer.Observer/Nothing")
    assert refusal(lambda: unknown(b"", timeout=5))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_defect_is_an_answer_and_a_line_in_the_log(
    observed: Observed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> bytes:
        raise RuntimeError("a defect")

    monkeypatch.setattr(observed.server._service, "server_status", broken)
    status = observed.client.observer.ServerStatus
    code, text = refusal(lambda: status(observed.client.messages.ServerStatusRequest()))
    assert (code, text) == (grpc.StatusCode.INTERNAL, "failed: see the agent's log")


def test_a_time_that_cannot_be_written_is_left_out_and_counted(observed: Observed) -> None:
    observed.server.flows([flow(time=-1e15), flow(time=1.0)])
    assert times(observed.client.flows()) == ["01"]
    assert observed.server.losses()["hubble_encode"] == 1


def test_nodes_and_namespaces(observed: Observed) -> None:
    observed.server.report(IN_CLUSTER)
    observed.server.flows([flow()])
    messages, stub = observed.client.messages, observed.client.observer
    (node,) = as_json(stub.GetNodes(messages.GetNodesRequest()))["nodes"]
    assert (node["name"], node["state"], node["num_flows"]) == ("prod/n1", "NODE_CONNECTED", "1")
    found = as_json(stub.GetNamespaces(messages.GetNamespacesRequest()))["namespaces"]
    assert found == [{"cluster": "prod", "namespace": name} for name in ("airflow", "etl")]


def test_health(observed: Observed) -> None:
    check, request = observed.client.health.Check, observed.client.health_messages.HealthCheckRequest
    for service in ("hubble.server.Observer", "observer.Observer", "peer.Peer", ""):
        assert as_json(check(request(service=service))) == {"status": "SERVING"}
    assert refusal(lambda: check(request(service="other")))[0] is grpc.StatusCode.NOT_FOUND


def test_there_are_no_events_of_agents(observed: Observed) -> None:
    messages, stub = observed.client.messages, observed.client.observer
    assert list(stub.GetAgentEvents(messages.GetAgentEventsRequest(number=20))) == []
    assert list(stub.GetDebugEvents(messages.GetDebugEventsRequest())) == []
    followed = stub.GetAgentEvents(messages.GetAgentEventsRequest(follow=True), timeout=0.5)
    assert refusal(lambda: list(followed))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_without_a_port_relay_hears_of_this_node_s_socket(observed: Observed) -> None:
    stream = observed.client.peer.Notify(observed.client.peers.NotifyRequest(), timeout=10)
    assert as_json(next(stream)) == {"name": "n1", "address": f"unix://{observed.path}", "type": "PEER_ADDED"} | (
        {"name": "default/n1"}
    )
    observed.server.report(IN_CLUSTER)
    changed = sorted((as_json(next(stream)) for _ in range(2)), key=lambda each: each["type"])
    assert [(each["name"], each["type"]) for each in changed] == [
        ("prod/n1", "PEER_ADDED"), ("default/n1", "PEER_DELETED")
    ]  # fmt: skip


def test_the_socket_is_root_s_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        observed = Observed(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(observed.path.stat().st_mode) == 0o600
    assert [path.name for path in observed.path.parent.iterdir()] == ["hubble.sock"]
    with pytest.raises(DagwallError, match=f"{observed.path}: another agent answers on this socket"):
        HubbleServer("n1", socket=observed.path, flows=10)
    observed.stop()
    assert not observed.path.exists()


def test_a_socket_that_a_killed_agent_left_is_replaced(tmp_path: Path) -> None:
    import socket as sockets  # noqa: PLC0415

    (tmp_path / "run").mkdir()
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run" / "hubble.sock"))
    observed = Observed(tmp_path)
    assert observed.client.flows() == []
    observed.stop()


def test_stopping_ends_the_streams_in_good_order(tmp_path: Path) -> None:
    observed = Observed(tmp_path)
    stream = observed.another().stream(follow=True)
    time.sleep(0.3)
    threading.Timer(0.1, observed.server.stop).start()
    assert list(stream) == []


def test_many_clients_are_served_side_by_side(observed: Observed) -> None:
    """And the draining thread hands its flows over as fast as to none."""
    clients = [observed.another() for _ in range(30)]
    streams = [client.stream(timeout=60, follow=True) for client in clients]
    assert eventually(lambda: len(observed.server._places._taken) == 30)
    longest = 0.0
    for n in range(10):
        began = time.perf_counter()
        observed.server.flows([flow(time=float(n))])
        longest = max(longest, time.perf_counter() - began)
    assert longest < 0.5
    for stream in streams:
        assert times([as_json(next(stream)) for _ in range(10)]) == [f"0{n}" for n in range(10)]
    for client in clients:
        client.close()
