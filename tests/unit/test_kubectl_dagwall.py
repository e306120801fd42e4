"""`kubectl dagwall` without a cluster: which agents there are, who answers in time, and answers of many as one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.cli.agents import CONTAINER, agents_of
from agent.cli.doctors import together
from agent.cli.gather import AT_ONCE, gather
from agent.cli.kubectl import kubectl
from agent.cli.merge import merged
from agent.errors import ApiError, DagwallError
from agent.outputs.questions import UnknownName
from agent.sources import kube_exec
from agent.sources.kube_exec import _lines

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def pod(name: str, node: str = "", state: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    containers = [] if state is None else [{"name": CONTAINER, "state": state}]
    return {
        "metadata": {"name": name, **metadata}, "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Pending", "containerStatuses": containers},
    }  # fmt: skip


def test_agents_by_node() -> None:
    found = agents_of(
        [
            pod("a", "n1", {"running": {}}), pod("b", "n2", {"waiting": {"reason": "ImagePullBackOff"}}),
            pod("c", "n3"), pod("d", "n4", {"terminated": {"reason": "OOMKilled"}}), pod("e", "n5", {}),
            pod("not placed"),
        ],
        "",
    )  # fmt: skip
    assert found.pods == {"n1": "a"}
    assert found.absent == {
        "n2": "pod b: ImagePullBackOff", "n3": "pod c: Pending", "n4": "pod d: OOMKilled", "n5": "pod e: waiting",
    }  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_a_pod_that_ends_does_not_hide_its_successor(turned: bool) -> None:
    pods = [pod("old", "n1", {"running": {}}, deletionTimestamp="now"), pod("new", "n1", {"running": {}})]
    found = agents_of(pods[::-1] if turned else pods, "n1")
    assert (found.pods, found.absent) == ({"n1": "new"}, {})
    assert agents_of(pods, "n2").pods == {}


def test_answers_are_gathered_side_by_side() -> None:
    everybody = threading.Barrier(5, timeout=10)

    def ask(node: str) -> str:
        everybody.wait()
        if node == "n3":
            raise UnknownName("no such DAG")
        if node == "n4":
            raise ApiError("refused", 0)
        if node == "n5":
            raise ZeroDivisionError("a defect")
        return node.upper()

    found = gather(("n2", "n1", "n3", "n4", "n5"), ask, 10)
    assert dict(found.results) == {"n1": "N1", "n2": "N2"}
    assert list(found.results) == ["n1", "n2"]
    assert found.unknown == {"n3": "no such DAG"}
    assert {node: str(why) for node, why in found.missing.items()} == {
        "n4": "refused",
        "n5": "ZeroDivisionError: a defect",
    }


def test_a_node_that_hangs_costs_its_own_time_only() -> None:
    forever = threading.Event()
    begin = time.monotonic()
    found = gather([f"n{n}" for n in range(5)], lambda node: forever.wait(30) if node == "n3" else node, 0.2)
    assert time.monotonic() - begin < 5
    forever.set()
    assert list(found.missing) == ["n3"]
    assert str(found.missing["n3"]) == "no answer within 0.2 s"
    assert len(found.results) == 4


def test_more_nodes_than_are_asked_at_once() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def ask(node: str) -> str:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1
        return node

    assert len(gather([f"n{n}" for n in range(3 * AT_ONCE)], ask, 10).results) == 3 * AT_ONCE
    assert 1 < most <= AT_ONCE


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([DagwallError("last: must be"), DagwallError("last: must be")], "last: must be"),
        ([DagwallError("last: must be"), ApiError("no way", 0)], ""),
        ([DagwallError("one"), DagwallError("two")], ""),
    ],
)
def test_what_all_refuse_in_the_same_words_is_said_once(errors: list[DagwallError], said: str) -> None:
    def ask(node: str) -> None:
        raise errors[int(node)]

    assert gather(["0", "1"], ask, 5).refusal() == said


def failure(last: float, events: int = 1, **other: Any) -> dict[str, Any]:
    return {
        "cause": "denied",
        "dag_id": "a",
        "first": last - 1,
        "last": last,
        "events": events,
        "text": f"{last}",
    } | other


def test_equal_failures_are_one_and_the_most_important_stay_first() -> None:
    answers = {
        "n1": {"failures": [failure(5, 2), failure(9, dag_id="less")], "totals": []},
        "n2": {"failures": [failure(7, 3), failure(8, dag_id="other")], "totals": []},
        "n3": {"failures": [failure(1, dag_id="first of its node")], "totals": []},
    }
    found = merged("why", answers, {"last": 10})["failures"]
    assert [row["dag_id"] for row in found] == ["a", "first of its node", "less", "other"]
    assert found[0] == failure(7, 5, first=4, nodes=["n1", "n2"])
    assert len(merged("why", answers, {"last": 2})["failures"]) == 2


ROWS = st.lists(st.integers(0, 50), max_size=8).map(sorted)


@given(st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), ROWS, min_size=1), st.integers(0, 10))
def test_flows_are_the_last_of_all(answers: dict[str, list[int]], last: int) -> None:
    """An agent gives its own last ones: no flow is lost that all agents together would have shown."""
    given_ = {node: [{"time": each} for each in times[-last:] if last] for node, times in answers.items()}
    found = merged("flows", given_, {"last": last})
    everything = sorted(each for times in answers.values() for each in times)
    assert [row["time"] for row in found] == (everything[-last:] if last else [])


def test_totals_add_up() -> None:
    total = {"name": "a", "verdict": "deny", "direction": "egress", "reason": "no_rule", "rule": "", "packets": 4}
    answers = {node: {"failures": [], "totals": [total, total | {"name": node}]} for node in ("n1", "n2")}
    assert [(row["name"], row["packets"]) for row in merged("why", answers, {})["totals"]] == [
        ("a", 8),
        ("n1", 4),
        ("n2", 4),
    ]


def test_one_answer_with_a_pod_goes_before_those_without() -> None:
    def row(**other: Any) -> dict[str, Any]:
        same = {
            "identity": "a",
            "pod": "",
            "address": "x",
            "protocol": "TCP",
            "port": 1,
            "verdict": "deny",
            "text": "t",
        }
        return same | other

    answers = {"n1": [row()], "n2": [row(pod="p")], "n3": [row(pod="p")], "n4": [row(pod="p", verdict="allow")]}
    found = merged("explain", answers, {})
    assert [(each["verdict"], each["nodes"]) for each in found] == [("deny", ["n2", "n3"]), ("allow", ["n4"])]
    assert merged("explain", {"n1": [row()]}, {}) == [row(nodes=["n1"])]


def test_what_cannot_be_one_answer_is_refused() -> None:
    with pytest.raises(DagwallError, match="name it with --node"):
        merged("status", {}, {})


class Channels:
    """A websocket that has this to say: (channel, bytes), one at an update."""

    def __init__(self, *said: tuple[int, bytes]) -> None:
        self.said, self.read, self.closed = list(said), {}, False  # type: ignore[var-annotated]

    def is_open(self) -> bool:
        return bool(self.said)

    def update(self, timeout: float) -> None:
        assert timeout > 0
        channel, data = self.said.pop(0)
        self.read[channel] = self.read.get(channel, b"") + data

    def read_channel(self, channel: int) -> bytes | str:
        return self.read.pop(channel, b"" if channel == 1 else "")  # as of kubernetes 29

    def close(self) -> None:
        self.closed = True


SUCCESS = (3, b'{"status": "Success"}')


@given(st.lists(st.sampled_from([b"a", b"\n", b"bc\nd", b"\xff", b"long\n\nlines\n"])))
def test_lines_are_whole_however_they_are_cut(chunks: list[bytes]) -> None:
    found = list(_lines(Channels(*((1, chunk) for chunk in chunks), SUCCESS), time.monotonic() + 10))
    text = b"".join(chunks)
    assert b"\n".join(found) == text.removesuffix(b"\n")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([(2, b"warning\nError: no agent answers\n"), (3, b'{"status": "Failure"}')], "Error: no agent answers"),
        ([(3, b'{"status": "Failure", "message": "container is gone"}')], "container is gone"),
        ([(2, b"Error"), (3, b'{"status": "Failure", "reason": "NonZeroExitCode"}')], "Error"),
        ([(1, b"half")], "the connection broke off"),
        ([(3, b"[]")], "the connection broke off"),
    ],
)
def test_a_stream_that_does_not_end_well_says_why(said: list[tuple[int, bytes]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(_lines(Channels(*said), time.monotonic() + 10))


def test_an_exit_code_alone_is_an_answer() -> None:
    """`dagwall doctor` ends with 1 where something fails, and has said what."""
    ended = (3, b'{"status": "Failure", "reason": "NonZeroExitCode", "message": "exit code 1"}')
    assert list(_lines(Channels((1, b"[]\n"), ended), time.monotonic() + 10)) == [b"[]"]


def test_findings_of_many_nodes() -> None:
    def row(level: str, found: str) -> dict[str, str]:
        return {"level": level, "what": "x", "found": found, "do": "y"}

    found = together(
        {
            "n1": [row("ok", "a"), row("warns", "b"), row("warns", "c")],
            "n2": [row("warns", "c"), row("fails", "d")], "n3": [row("warns", "c")],
        }
    )  # fmt: skip
    assert [(each["level"], each["found"], each["nodes"]) for each in found] == [
        ("fails", "d", ["n2"]), ("warns", "c", ["n1", "n2", "n3"]), ("warns", "b", ["n1"]), ("ok", "a", ["n1"]),
    ]  # fmt: skip


def test_an_answer_has_its_time_and_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimeoutError):
        list(_lines(Channels((1, b"x\n")), time.monotonic() - 1))
    monkeypatch.setattr(kube_exec, "MAX_OUTPUT", 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        list(_lines(Channels((1, b"x" * 11), SUCCESS), time.monotonic() + 10))


def scripts() -> Iterator[str]:
    text = PYPROJECT.read_text().partition("[project.scripts]")[2].partition("\n[")[0]
    yield from (line.partition("=")[2].strip().strip('"') for line in text.splitlines() if "=" in line)


def test_the_console_scripts_are_there() -> None:
    found = {
        target: getattr(import_module(target.partition(":")[0]), target.partition(":")[2]) for target in scripts()
    }
    assert found.keys() == {"agent.cli:main", "agent.cli.kubectl:main"}
    assert all(isinstance(each, Callable) for each in found.values())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["status", "flows", "why", "top", "endpoints", "doctor"])
def test_every_command_has_the_clusters_options_and_no_socket(name: str) -> None:
    text = CliRunner().invoke(kubectl, [name, "--help"]).output
    for option in ("--kubeconfig", "--context", "--agents", "--node", "--timeout"):
        assert option in text
    assert "--socket" not in text
    assert "--socket" in CliRunner().invoke(main, [name, "--help"]).output, "the agent's own command keeps it"


def test_one_request_as_it_stands(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["ask", json.dumps([1])])
    assert (refused.exit_code, "must be a JSON object" in refused.output) == (2, True)
    away = CliRunner().invoke(main, ["ask", "{}", "--socket", str(tmp_path / "none")])
    assert (away.exit_code, "no agent answers" in away.output) == (1, True)
    assert "\n  ask " not in CliRunner().invoke(main, ["--help"]).output
