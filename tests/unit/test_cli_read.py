"""The noun commands against a real socket, and how they look."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.cli.show import amount
from agent.model.cluster import Cluster
from agent.model.flow import PeerKind, PeerName
from agent.model.node_state import View
from agent.model.verdict import Direction, DropReason, Hook, Verdict
from agent.outputs.api import ApiServer
from agent.outputs.questions import Questions
from agent.outputs.recent import Recent
from agent.outputs.records import Filter
from tests.unit.seen import ROW, VIEW, denial, flow, unready, with_row

HOSTILE = "\x1b[2Jevil[red]\u202e\x9b\n"


class Agent:
    """Answers on a socket; its view is replaced by tests."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "dagwall.sock"
        self.view: View | None = VIEW
        self.recent = Recent()
        self.server = ApiServer(self.socket, Questions(lambda: self.view, Cluster, self.recent))
        self.server.start()

    def ask(self, *words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [*words, "--socket", str(self.socket)])
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    served = Agent(tmp_path)
    yield served
    served.recent.stop()
    served.server.stop()


def test_status_is_an_exit_code_too(agent: Agent) -> None:
    ready = agent.ask("status").output
    assert ready.startswith("ready\n")
    for part in (
        "rules",
        "10.0%",
        "egress",
        "1 managed",
        "4 flows_quota",
        "x1: NET_RAW",
        "a.yaml:3",
        "AF_VSOCK",
        "3 entries of maps",
    ):
        assert part in ready
    agent.view = unready(hooks="not attached to /kubepods")
    assert agent.ask("status", code=1).output.startswith("not ready\n  problem: not attached to /kubepods\n")
    assert json.loads(agent.ask("status", "-o", "json", code=1).output)["problems"] == ["not attached to /kubepods"]


def test_no_agent(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", "--socket", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "no agent answers" in result.output


def test_tables_are_aligned_and_fit(agent: Agent) -> None:
    agent.recent.flows([flow(time=1)])
    agent.recent.denials([denial(time=2)])
    for words in (["status"], ["endpoints"], ["identities"], ["flows"]):
        lines = agent.ask(*words).output.splitlines()
        assert all(line.rstrip() == line.rstrip().expandtabs() for line in lines)
    header, *rows = agent.ask("flows").output.splitlines()
    assert [row.index("finance/load") for row in rows] == [header.index("TASK")] * 2
    assert max(len(line.rstrip()) for line in (header, *rows)) <= 130
    assert "\x1b" not in header


def test_endpoints_and_identities(agent: Agent) -> None:
    assert "can escape: NET_RAW" in agent.ask("endpoints").output
    assert json.loads(agent.ask("endpoints", "-o", "json").output)[0]["run_id"] == "manual__1"
    assert "5.0 kB" in agent.ask("identities").output
    assert json.loads(agent.ask("identities", "-o", "json").output)[0]["denied_packets"] == 9


def test_flows_and_their_filters(agent: Agent) -> None:
    now = time.time()
    agent.recent.flows([flow("a", time=now - 600), flow("b", time=now - 5)])
    agent.recent.denials([denial("a", time=now - 1)])
    assert len(agent.ask("flows").output.splitlines()) == 4
    assert "192.0.2.9:5432/TCP  deny" in agent.ask("flows", "--verdict", "deny").output
    rows = json.loads(agent.ask("flows", "--since", "1m", "-o", "json").output)
    assert [row["dag_id"] for row in rows] == ["b", "a"]
    assert json.loads(agent.ask("flows", "--dag", "a", "--last", "1", "-o", "json").output)[0]["verdict"] == "deny"
    assert agent.ask("flows", "--pod", "airflow/fin*", "--direction", "ingress").output == "no flows\n"
    assert "no such pod is known here: 'nobody'" in agent.ask("flows", "--pod", "nobody", code=1).output
    assert "must be a number and s, m, h or d" in agent.ask("flows", "--since", "soon", code=2).output


def test_incoming_flows_have_our_port_at_our_end(agent: Agent) -> None:
    agent.recent.flows(
        [flow(direction=Direction.INGRESS, port=8793), flow(direction=Direction.INGRESS, protocol=1, port=0)]
    )
    shown = agent.ask("flows").output
    assert "192.0.2.9 to :8793/TCP  allow" in shown
    assert "192.0.2.9 to ICMP " in shown
    agent.recent.denials([denial(direction=Direction.INGRESS)])
    assert "192.0.2.9:40000 to :5432/TCP  deny" in agent.ask("flows").output


def test_what_passes_in_audit_is_listed_once(agent: Agent) -> None:
    audit = denial(verdict=Verdict.AUDIT, time=1.0)
    agent.recent.denials([audit])
    assert agent.ask("flows").output.count("audit") == 1, "no flow of it was reported yet"
    agent.recent.flows([replace(flow(port=5432, verdict=Verdict.AUDIT), rule=None, reason=DropReason.NO_RULE)])
    shown = agent.ask("flows").output
    assert (shown.count(" audit "), shown.count("no rule")) == (1, 1)
    socket = replace(audit, hook=Hook.SOCK_CREATE, reason=DropReason.RAW_SOCKET)
    agent.recent.denials([socket])
    assert agent.ask("flows").output.count(" audit ") == 2
    assert len(json.loads(agent.ask("why", "-o", "json").output)["failures"]) == 2


def test_followers_get_what_passes_in_audit_once() -> None:
    recent, audit = Recent(), denial(verdict=Verdict.AUDIT)
    passed = flow(port=5432, verdict=Verdict.AUDIT)
    with recent.follow(Filter()) as follower:
        recent.denials([audit])
        recent.flows([passed])
        assert follower.take(0) == ([passed], 0)
        recent.denials([audit])  # after the flow that tells of it
        recent.flows([])
        assert follower.take(0) == ([], 0)
        recent.denials([audit])
        recent.flows([])
        assert follower.take(0) == ([audit], 0), "there was no room for its flow"


def test_flows_are_listed_by_the_time_of_their_packets(agent: Agent) -> None:
    agent.recent.flows([flow("late", time=3), flow("early", time=1)])
    agent.recent.denials([denial("between", time=2)])
    rows = json.loads(agent.ask("flows", "-o", "json").output)
    assert [row["dag_id"] for row in rows] == ["early", "between", "late"]


def test_flows_by_port_protocol_reason_and_time(agent: Agent) -> None:
    now = time.time()
    agent.recent.flows([flow("a", time=now - 600), flow("b", time=now - 60, protocol=17, port=53)])
    agent.recent.denials([denial("c", time=now - 1), denial("d", time=now - 1, reason=DropReason.DENY_RULE)])
    for words, found in (
        (("--port", "443"), ["a"]), (("--port", "53"), ["b"]), (("--protocol", "udp"), ["b"]),
        (("--reason", "no_rule"), ["c"]), (("--reason", "no rule"), ["c"]), (("--reason", "*_rule"), ["c", "d"]),
        (("--until", "5m"), ["a"]), (("--since", "5m", "--until", "30s"), ["b"]),
    ):  # fmt: skip
        rows = json.loads(agent.ask("flows", *words, "-o", "json").output)
        assert [row["dag_id"] for row in rows] == found, words
    assert agent.ask("flows", "--port", "70000", code=2)


def test_endpoints_and_identities_have_filters(agent: Agent) -> None:
    for words in (["--dag", "fin*"], ["-n", "airflow"], ["--task", "load"]):
        for command in ("endpoints", "identities"):
            assert len(json.loads(agent.ask(command, *words, "-o", "json").output)) == 1
    assert len(json.loads(agent.ask("endpoints", "--pod", "airflow/fin*", "-o", "json").output)) == 1
    assert agent.ask("endpoints", "--state", "pending").output == "no endpoints\n"
    said = agent.ask("identities", "--dag", "typo", code=1).output
    assert "--dag: 'typo' matches nothing here (known: finance)" in said


def test_followed_flows_have_a_header_and_no_blanks_at_the_end(agent: Agent) -> None:
    agent.recent.flows([flow(time=1)])
    agent.recent.denials([denial(time=2)])
    threading.Timer(0.3, agent.recent.stop).start()
    header, *rows = agent.ask("flows", "-f").output.splitlines()
    assert header.split()[:3] == ["TIME", "TASK", "PEER"]
    assert [row.index("finance/load") for row in rows] == [header.index("TASK")] * 2
    assert all(line == line.rstrip() for line in (header, *rows))
    agent.recent.denials([denial()])
    for command in ("flows", "why", "status", "endpoints", "identities"):
        assert all(line == line.rstrip() for line in agent.ask(command).output.splitlines()), command


def test_narrow_terminals_fold_between_words_only() -> None:
    rows = [("2001:db8:aaaa:bbbb:cccc::1234", "a-very-long-name-of-a-task", "several words that may be folded")]
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 40))
    shown = f"from agent.cli.show import print_table\nprint_table(('ADDRESS', 'TASK', 'WHY'), {rows!r})"
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    subprocess.run([sys.executable, "-c", shown], stdout=follower, check=True, env={**environment, "TERM": "xterm"})
    os.close(follower)
    text = os.read(leader, 65536).decode()
    os.close(leader)
    assert all(word in text for cell in rows[0] for word in cell.split()), text


def test_following(agent: Agent) -> None:
    agent.recent.flows([flow(time=1)])
    later = threading.Timer(0.3, lambda: (agent.recent.denials([denial(time=2)]), agent.recent.stop()))
    later.start()
    lines = agent.ask("flows", "-f", "-o", "json").output.splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == ["allow", "deny"]


def test_refused_sockets_have_no_address(agent: Agent) -> None:
    kinds = ((Hook.SOCK_CREATE, DropReason.RAW_SOCKET, 1, 0), (Hook.SOCKET_CREATE, DropReason.SOCKET_FAMILY, 0, 17))
    for family in (17, 40):
        for hook, reason, protocol, of in kinds:
            seen = denial(time=time.time(), reason=reason)
            nothing = replace(seen.tuple, peer=ip_address("::"), protocol=protocol, service_port=0)
            agent.recent.denials([replace(seen, hook=hook, tuple=nothing, family=of and family, nearest=None)])
    lines = agent.ask("flows").output
    assert (lines.count("ICMP socket"), lines.count("AF_PACKET socket"), lines.count("AF_VSOCK socket")) == (2, 1, 1)
    assert "::" not in lines
    texts = [row["text"] for row in json.loads(agent.ask("why", "-o", "json").output)["failures"]]
    assert sorted(text.partition(",")[0] for text in texts) == [
        "denied: a raw ICMP socket", "denied: an AF_PACKET socket", "denied: an AF_VSOCK socket"
    ]  # fmt: skip


def test_why(agent: Agent) -> None:
    agent.recent.denials([denial(time=1), denial(time=2)])
    text = agent.ask("why", "--dag", "finance").output
    assert "airflow finance/load (pod finance-load-x1, run manual__1 try 2)" in text
    assert "no rule allows it; nearest: finance-egress/warehouse lacks port 5432/TCP" in text
    assert "2 times" in text
    assert "Exact totals" in text
    assert "no such DAG is known here: 'other' (known: finance)" in agent.ask("why", "--dag", "other", code=1).output
    assert json.loads(agent.ask("why", "-o", "json").output)["failures"][0]["events"] == 2


def test_nothing_that_people_name_can_steer_a_terminal(agent: Agent) -> None:
    """Nor does the JSON, which reads back exactly."""
    agent.view = with_row(replace(ROW, dag_id=HOSTILE, pod=HOSTILE))
    agent.recent.flows([flow(HOSTILE, peer=PeerName(PeerKind.POD, HOSTILE))])
    agent.recent.denials([denial(HOSTILE)])
    for words in (["flows"], ["why"], ["endpoints"], ["flows", "-o", "json"], ["endpoints", "-o", "json"]):
        output = agent.ask(*words).output
        assert not set(HOSTILE) & set(output.replace("\n", "")) - set("evil[red]2J"), words
        assert r"\u202e" in output
        assert "evil[red]" in output
    assert json.loads(agent.ask("flows", "-o", "json").output)[0]["dag_id"] == HOSTILE
    error = agent.ask("why", "--dag", "nobody", code=1).output
    assert "\x1b" not in error
    assert r"\x1b[2Jevil[red]" in error


def test_words() -> None:
    assert [amount(n) for n in (0, 999, 1000, 1_500_000, 10**13)] == ["0 B", "999 B", "1.0 kB", "1.5 MB", "10.0 TB"]


def test_version() -> None:
    found = json.loads(CliRunner().invoke(main, ["version", "-o", "json"]).output)
    assert found.keys() == {"dagwall", "python", "kernel"}
