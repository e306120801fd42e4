"""The local API over a real socket: answers, errors, following, and who may ask."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from immutables import Map

from agent.errors import DagwallError
from agent.model.cluster import Cluster, Namespace, Pod, Service
from agent.model.flow import Flow, PeerKind, PeerName
from agent.model.identity import Claim, PodUid
from agent.model.node_state import View
from agent.model.policy import CidrPeer, Policy, PolicyRef, PortMatch, Rule, Subject
from agent.model.verdict import Direction, DropReason, Verdict
from agent.outputs.api import ApiServer
from agent.outputs.client import Client
from agent.outputs.questions import Questions
from agent.outputs.recent import Recent
from agent.outputs.records import Filter
from agent.outputs.words import sentence
from tests.unit.seen import VIEW, denial, endpoint, flow

EGRESS = Rule(
    "warehouse", Direction.EGRESS, (CidrPeer(ip_network("192.0.2.0/24")),), (PortMatch(6, 443),)
)  # fmt: skip
FORBIDDEN = Rule("secrets", Direction.EGRESS, (CidrPeer(ip_network("192.0.2.66/32")),), None, "ask the data office")
POLICY = Policy(
    PolicyRef("airflow", "TaskNetworkPolicy", "finance-egress"), Subject(), egress=(EGRESS,), deny=(FORBIDDEN,)
)
CLUSTER = Cluster(
    revision=7,
    complete=True,
    pods=Map({PodUid("u"): Pod(PodUid("u"), "airflow", "finance-load-x1", Claim(endpoint().identity, ()))}),
    namespaces=Map({"airflow": Namespace("airflow", managed=True), "db": Namespace("db")}),
    services=Map({("db", "pg"): Service("db", "pg", (ip_address("192.0.2.9"), ip_address("192.0.2.10")))}),
    policies=Map({POLICY.ref: POLICY}),
)


class Api:
    """A server, and a client that asks it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run" / "dagwall.sock"
        self.view: View | None = VIEW
        self.recent = Recent(flows=100, denials=100, queue=10)
        self.server = ApiServer(self.path, Questions(lambda: self.view, lambda: CLUSTER, self.recent))
        self.server.start()
        self.client = Client(self.path, timeout_seconds=5)

    def raw(self, line: bytes) -> dict[str, object]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.path))
            connection.sendall(line)
            return json.loads(connection.makefile("rb").readline())  # type: ignore[no-any-return]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    served = Api(tmp_path)
    yield served
    served.recent.stop()
    served.server.stop()


def test_only_the_owner_may_ask(api: Api) -> None:
    assert stat.S_IMODE(api.path.stat().st_mode) == 0o600
    assert [p.name for p in api.path.parent.iterdir()] == ["dagwall.sock"]


def test_status_endpoints_identities(api: Api) -> None:
    assert api.client.ask("status")["revision"] == 7
    assert api.client.ask("endpoints")[0]["pod"] == "finance-load-x1"
    assert api.client.ask("identities")[0]["received_bytes"] == 5000


def test_an_agent_that_is_starting_says_so(api: Api) -> None:
    api.view = None
    with pytest.raises(DagwallError, match="the agent is starting"):
        api.client.ask("status")


def test_flows_and_denials_by_filters_in_order(api: Api) -> None:
    api.recent.flows([flow("a", time=1), flow("b", time=3, address="192.0.2.7")])
    api.recent.denials([denial("a", time=2), denial("a", time=4)])
    assert [row["time"] for row in api.client.ask("flows")] == [1, 2, 3, 4]
    assert [row["time"] for row in api.client.ask("flows", last=2)] == [3, 4]
    assert [row["time"] for row in api.client.ask("flows", dag="a", verdict="deny")] == [2, 4]
    assert [row["time"] for row in api.client.ask("flows", since=2.5, dag="a*")] == [4]
    assert [row["time"] for row in api.client.ask("flows", peer="192.0.2.7")] == [3]
    assert len(api.client.ask("flows", peer="world", namespace="air*", task="load", direction="egress")) == 4
    assert api.client.ask("flows", pod="airflow/finance-*", direction="ingress") == []
    with pytest.raises(DagwallError, match="no such pod is known here: 'other'"):
        api.client.ask("flows", pod="other")


def test_following_begins_with_the_last_and_goes_on(api: Api) -> None:
    api.recent.flows([flow(time=1), flow(time=2)])
    got: list[dict[str, object]] = []

    def read() -> None:
        got.extend(api.client.follow(last=1, verdict="allow"))

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(lambda: len(got) == 1)
    api.recent.denials([denial(time=3)])
    api.recent.flows([flow(time=4)])
    wait_for(lambda: len(got) == 2)
    api.recent.stop()
    reader.join(5)
    assert [answer["item"]["time"] for answer in got] == [2, 4]  # type: ignore[index]


def wait_for(condition: object) -> None:
    until = time.monotonic() + 5
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_slow_follower_loses_and_is_told() -> None:
    recent = Recent(queue=3)
    with recent.follow(Filter()) as subscription:
        recent.flows([flow(time=n) for n in range(10)])
        taken, lost = subscription.take(0)
        assert [seen.time for seen in taken] == [7, 8, 9]
        assert (lost, recent.lost) == (7, 7)
        recent.flows([flow(time=10)])
        assert subscription.take(0) == ([flow(time=10)], 0)
    recent.flows([flow()])
    assert recent.lost == 7


def test_memory_is_bounded_while_many_write_and_read() -> None:
    recent = Recent(flows=50, denials=50)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            recent.flows([flow(time=1)])
            recent.denials([denial(time=1)])

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for _ in range(200):
        assert len(recent.last(Filter(), 1000)) <= 100
    stop.set()
    for writer in writers:
        writer.join()
    assert sum(isinstance(seen, Flow) for seen in recent.last(Filter(), 1000)) == 50


def test_why_groups_and_explains(api: Api) -> None:
    rule = "TaskNetworkPolicy/airflow/finance-egress/secrets"
    api.recent.denials([denial(time=1), denial(time=2)])
    api.recent.denials([denial(time=3, reason=DropReason.DENY_RULE, rule=rule, address="192.0.2.66")])
    api.recent.denials([denial("other", time=4)])
    got = api.client.ask("why", dag="finance")
    newest, oldest = got["failures"]
    assert (newest["events"], oldest["events"], oldest["first"], oldest["last"]) == (1, 2, 1, 2)
    assert newest["text"].startswith(
        "denied: TCP to 192.0.2.66:5432 (world), finance-egress/secrets forbids it: ask the data office"
    )
    assert oldest["text"] == (
        "denied: TCP to 192.0.2.9:5432 (world), no rule allows it; "
        "nearest: finance-egress/warehouse lacks port 5432/TCP"
    )
    assert [(row["reason"], row["packets"]) for row in got["totals"]] == [("no_rule", 9)]
    assert api.client.ask("why", dag="finance", since=5)["failures"] == []
    with pytest.raises(DagwallError, match=r"no such DAG is known here: 'nobody' \(known: finance\)"):
        api.client.ask("why", dag="nobody")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"namespace": "airflwo"}, "no such namespace is known here: 'airflwo' (known: airflow, db)"),
        ({"dag": "finence"}, "no such DAG is known here: 'finence' (known: finance)"),
        ({"dag": "finance", "task": "laod"}, "no such task is known here: 'laod' (known: load)"),
        ({"pod": "airflow/typo"}, "no such pod is known here: 'airflow/typo' (known: airflow/finance-load-x1)"),
    ],
)
def test_a_name_that_nobody_has_is_told(api: Api, wanted: dict[str, str], said: str) -> None:
    for request in ("flows", "why"):
        with pytest.raises(DagwallError) as caught:
            api.client.ask(request, **wanted)
        assert str(caught.value) == said
    assert api.client.ask("flows", namespace="airflow", dag="fin*") == []


def test_a_pod_that_has_gone_is_known_as_long_as_its_flows(api: Api) -> None:
    gone = flow("gone")
    api.recent.flows([replace(gone, endpoint=replace(gone.endpoint, pod="gone"))])
    assert api.client.ask("flows", pod="gone", verdict="deny") == []
    assert api.client.ask("why", dag="gone")["failures"] == []


def test_why_of_the_caller_tells_what_its_peer_denied(api: Api) -> None:
    """P14: the ingress of another task has denied the call."""
    caller = PeerName(PeerKind.POD, "airflow/sales/extract", endpoint("sales", "extract").identity, "sales-x1")
    refused = denial(direction=Direction.INGRESS)
    api.recent.denials([replace(refused, peer=caller, nearest=None), denial(time=1)])
    for wanted in ({"dag": "sales"}, {"pod": "sales-x1"}, {"pod": "airflow/sales-x1"}):
        (why,) = api.client.ask("why", **wanted)["failures"]
        assert (why["dag_id"], why["task_id"], why["pod"], why["end"]) == ("sales", "extract", "sales-x1", "other")
        assert why["text"] == (
            "at the other end, pod airflow/finance-load-x1 (finance/load): denied: TCP from 192.0.2.9 "
            "(airflow/sales/extract) to port 5432, no rule allows it"
        )
    assert [why["end"] for why in api.client.ask("why", dag="finance")["failures"]] == ["own", "own"]
    assert len(api.client.ask("why")["failures"]) == 2, "each denial once"


def test_a_foreign_socket_is_noted_and_no_denial(api: Api) -> None:
    other = replace(endpoint("other", pod="other-pod"), uid="uid-2")
    noted = replace(denial(verdict=Verdict.ALLOW, reason=DropReason.NONE), opened_by=other, nearest=None)
    api.recent.denials([noted])
    assert api.client.ask("why")["failures"] == []
    (row,) = api.client.ask("flows")
    assert row["opened_by"] == "airflow/other-pod"
    assert row["text"] == "allowed: TCP to 192.0.2.9:5432 (world), the socket was used by pod airflow/other-pod"


def test_explain_asks_the_judge(api: Api) -> None:
    (allowed,) = api.client.ask("explain", dag="finance", task="load", host="192.0.2.9", port=443)
    assert (allowed["verdict"], allowed["rule"]) == ("allow", f"{POLICY.ref}/warehouse")
    (denied,) = api.client.ask("explain", pod="finance-load-x1", host="192.0.2.9", port=5432)
    assert (denied["verdict"], denied["reason"]) == ("deny", "no_rule")
    assert denied["text"] == (
        "deny: TCP to 192.0.2.9:5432; no rule allows it; nearest: finance-egress/warehouse lacks port 5432/TCP"
    )
    (forbidden,) = api.client.ask("explain", pod="airflow/finance-load-x1", host="192.0.2.66", port=443)
    assert forbidden["denying"] == [f"{POLICY.ref}/secrets"]
    assert "its reason: ask the data office" in forbidden["text"]
    assert [row["address"] for row in api.client.ask("explain", dag="finance", host="db/pg", port=443)] == [
        "192.0.2.9", "192.0.2.10"
    ]  # fmt: skip


def test_explain_of_a_task_that_has_no_pod(api: Api) -> None:
    (got,) = api.client.ask("explain", dag="new", task="t", namespace="airflow", host="192.0.2.9", port=443)
    assert (got["pod"], got["verdict"], got["identity"]) == ("", "allow", "airflow/default/new/t")
    (got,) = api.client.ask("explain", dag="new", namespace="db", host="192.0.2.9", port=443)
    assert "namespace db is not managed" in got["text"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dag": "finance", "host": "192.0.2.9"}, "needs a port"),
        ({"dag": "nobody", "host": "192.0.2.9", "port": 1}, r"name its --namespace \(managed ones: airflow\)"),
        ({"pod": "nobody", "host": "192.0.2.9", "port": 1}, "no pod 'nobody' is known"),
        ({"dag": "finance", "host": "example.org", "port": 1}, "is no address"),
        ({"dag": "finance", "host": "db/none", "port": 1}, "no address of 'db/none'"),
        ({"dag": "finance", "host": "192.0.2.9", "port": 1, "protocol": "XTP"}, "protocol must be one of"),
        ({"dag": "finance", "port": 1}, "host: must be given"),
        ({"dag": "finance", "host": "192.0.2.9", "port": "1"}, "port: must be a whole number"),
        ({"dag": 5, "host": "192.0.2.9", "port": 1}, "dag: must be text"),
    ],
)
def test_questions_that_cannot_be_answered(api: Api, fields: dict[str, object], message: str) -> None:
    with pytest.raises(DagwallError, match=message):
        api.client.ask("explain", **fields)


@pytest.mark.parametrize(
    "field", ["request", "verdict", "direction", "namespace", "host", "last", "since", "version"]
)
@pytest.mark.parametrize("value", [["a"], {"a": 1}, True, 1.5, None])
@pytest.mark.parametrize("request_name", ["flows", "why", "explain"])
def test_whatever_a_field_holds_there_is_an_answer_and_no_trace(
    api: Api, request_name: str, field: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    said = {"version": 1, "request": request_name, "host": "192.0.2.9", field: value}
    assert api.raw(json.dumps(said).encode() + b"\n").keys() & {"result", "error"}
    assert "api.failed" not in caplog.text


def test_a_client_that_leaves_early_is_no_event(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    for line in (
        b"no json\n",
        b'{"version": 1, "request": "nothing"}\n',
        b'{"version": 1, "request": "status"}\n',
        b"{",
    ):
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(api.path))
                connection.sendall(line)
    assert api.client.ask("status")
    assert "api.failed" not in caplog.text


def test_clients_that_never_ask_do_not_keep_others_out(api: Api) -> None:
    slow = []
    for _ in range(150):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(api.path))
        slow.append(connection)
    assert api.client.ask("status")
    for connection in slow:
        connection.close()


def test_requests_that_cannot_be_read(api: Api) -> None:
    assert api.raw(b"rubbish\n")["error"] == "a request is one line of JSON"
    assert api.raw(b"[]\n")["error"] == "a request is a JSON object"
    assert api.raw(b"[" * 60_000 + b"\n")["error"] == "a request is one line of JSON"
    assert api.raw(b'{"version": 2, "request": "status"}\n')["error"] == "version: this agent speaks 1 here, not 2"
    assert "request: must be one of" in str(api.raw(b'{"version": 1, "request": "erase"}\n')["error"])
    assert "at most" in str(api.raw(b'{"x": "' + b"y" * 65_560 + b'"}\n')["error"])
    assert api.client.ask("status")["node"] == "n1"


@pytest.mark.parametrize(
    "fields", [{"last": -1}, {"last": "x"}, {"last": True}, {"verdict": "no"}, {"direction": "up"}, {"since": "x"}]
)
def test_filters_that_cannot_be_read(api: Api, fields: dict[str, object]) -> None:
    with pytest.raises(DagwallError, match="must be"):
        api.client.ask("flows", **fields)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path, api: Api) -> None:
    with pytest.raises(DagwallError, match="another agent answers"):
        Api(tmp_path)
    stale = tmp_path / "other" / "run" / "dagwall.sock"
    stale.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    second = Api(tmp_path / "other")
    try:
        assert second.client.ask("status")["node"] == "n1"
    finally:
        second.server.stop()
    assert not stale.exists()


def test_no_agent_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DagwallError, match=r"no agent answers on .*: is `dagwall run` running here"):
        Client(tmp_path / "none.sock").ask("status")


def test_verdicts_have_their_own_verbs() -> None:
    assert sentence(denial(verdict=Verdict.AUDIT)).startswith("would be denied: TCP to")
    ingress = sentence(denial(direction=Direction.INGRESS))
    assert ingress.startswith("denied: TCP from 192.0.2.9 (world) to port 5432, no rule allows it")
