"""All outputs of one agent: made together, asked by the same calls, stopped together; and which a source has."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.app import serve
from agent.app.serve import Serving
from agent.app.sources import SOURCES, source_kind
from agent.config import Config
from agent.errors import ApiError, DagwallError
from agent.model.flow import Denial, Flow
from agent.model.node_state import NodeState
from agent.outputs.client import Client
from agent.outputs.flowlog import FlowLog
from agent.outputs.http import HttpServer
from agent.outputs.latest import Latest
from agent.outputs.metrics import Metrics
from agent.outputs.observer.server import HubbleServer
from agent.outputs.output import Output
from agent.outputs.recent import Recent
from tests.unit.seen import STATE, TOTALS, denial, flow


def config(folder: Path, **changes: Any) -> Config:
    return replace(
        Config(
            "n1", files=folder, socket=folder / "run" / "d.sock", metrics="127.0.0.1:0", flow_log=folder / "flows"
        ),
        **changes,
    )


class Heard(Output):
    """Writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def flows(self, flows: list[Flow]) -> None:
        self.calls.append(f"flows {len(flows)}")

    def denials(self, denials: list[Denial]) -> None:
        self.calls.append(f"denials {len(denials)}")

    def report(self, state: NodeState) -> None:
        self.calls.append(f"report {state.status.revision}")

    def losses(self) -> Mapping[str, int]:
        return {"heard": 3}


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    found = Serving(config(tmp_path, probes="127.0.0.1:0"))
    found.start()
    yield found
    found.stop()


def feed(serving: Serving) -> None:
    """As the agent's threads do."""
    for output in serving.outputs:
        output.report(STATE)
        output.flows([flow(time=1)])
        output.denials([denial(time=2), denial(time=3)])


def test_what_the_agent_reports_is_shown_by_every_output(serving: Serving, tmp_path: Path) -> None:
    serving.latest.read_with(lambda _: TOTALS)
    feed(serving)
    client = Client(tmp_path / "run" / "d.sock", timeout_seconds=5)
    assert client.ask("status")["revision"] == 7
    assert len(client.ask("flows")) == 3
    assert dict(client.ask("status")["losses"]) == {
        "ring_full": 0, "flows_quota": 4, "followers": 0,
        "flow_log_queue": 0, "flow_log_write": 0, "flow_log_encode": 0, "hubble_followers": 0, "hubble_encode": 0,
    }  # fmt: skip
    serving.stop()
    assert len((tmp_path / "flows").read_text().splitlines()) >= 3


def test_a_new_output_is_one_more_in_the_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No other file knows it: it is called with everything, and its losses are the agent's."""
    heard, made = Heard(), serve._made

    def with_heard(of: Config, latest: Latest) -> Iterator[Output]:
        yield from made(of, latest)
        yield heard

    monkeypatch.setattr(serve, "_made", with_heard)
    found = Serving(config(tmp_path))
    found.start()
    feed(found)
    found.latest.read_with(lambda _: TOTALS)
    view = found.latest.view()
    found.stop()
    assert heard.calls == ["start", "report 7", "flows 1", "denials 2", "stop"]
    assert view is not None
    assert view.totals.losses["heard"] == 3


def test_an_output_that_takes_nothing_does_nothing() -> None:
    class Silent(Output):
        pass

    silent = Silent()
    silent.start()
    silent.report(STATE)
    silent.flows([flow()])
    silent.denials([denial()])
    silent.stop()
    assert silent.losses() == {}


def test_an_address_that_is_taken_ends_the_start_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DagwallError, match=f"serve probes on {address}"):
            Serving(config(tmp_path, probes=address))
    assert not (tmp_path / "run" / "d.sock").exists()


@pytest.mark.parametrize(
    "changes", [{"hubble_listen": "127.0.0.1:0"}, {"hubble_key": Path("k"), "hubble_certificate": Path("c")}]
)
def test_hubble_on_a_port_needs_all_of_its_files(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DagwallError, match="--hubble-tls-client-ca"):
        Serving(config(tmp_path, **changes))


def test_hubble_s_socket_is_beside_the_local_api_s_or_where_it_is_wanted(tmp_path: Path) -> None:
    found = Serving(config(tmp_path))
    assert (tmp_path / "run" / "hubble.sock").is_socket()
    found.stop()
    found = Serving(config(tmp_path, hubble_socket=str(tmp_path / "else" / "h")))
    assert (tmp_path / "else" / "h").is_socket()
    assert not (tmp_path / "run" / "hubble.sock").exists()
    found.stop()


def test_outputs_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    found = Serving(config(tmp_path))
    found.stop()
    assert not (tmp_path / "run" / "d.sock").exists()


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, [HttpServer, HubbleServer, FlowLog]),
        ({"metrics": "", "flow_log": None, "hubble_socket": ""}, []),
        ({"metrics": "", "probes": "127.0.0.1:0", "flow_log": None}, [HttpServer, HubbleServer]),
        ({"probes": "127.0.0.1:0", "flow_log": None, "hubble_socket": ""}, [HttpServer, HttpServer]),
    ],
)
def test_each_option_is_an_output(tmp_path: Path, changes: dict[str, Any], kinds: list[type]) -> None:
    found = Serving(config(tmp_path, **changes))
    found.stop()
    made = [type(each) for each in found.outputs]
    assert (made[0], made[1], Metrics in made) == (Latest, Recent, True)
    assert [each for each in made if each in (HttpServer, HubbleServer, FlowLog)] == kinds


def test_a_source_brings_the_outputs_that_only_it_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have no server to report to; the API's reports need credentials at once."""
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert list(source_kind(config(tmp_path)).outputs(config(tmp_path))) == []
    with pytest.raises(ApiError, match="no credentials"):
        Serving(config(tmp_path, files=None))
    assert not (tmp_path / "run" / "d.sock").exists()


def test_some_source_is_always_wanted_and_claims_of_files_are_never_late(tmp_path: Path) -> None:
    """I2."""
    files, api = SOURCES
    assert source_kind(config(tmp_path)) is files
    assert source_kind(config(tmp_path, files=None)) is api
    assert (files.clock, api.clock is None) == (None, False)
