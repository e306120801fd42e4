"""`dagwall top`: sums, order and growth; a plain listing where nobody watches."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.top import Counts, grown, ordered, summed
from tests.unit.seen import TOTALS, VIEW
from tests.unit.test_cli_read import Agent

(FINANCE,) = TOTALS.identities
ROWS = (
    FINANCE,
    replace(FINANCE, number=FINANCE.number + 1, service_account="other", sent_bytes=700),
    replace(FINANCE, number=FINANCE.number + 2, dag_id="sales", sent_bytes=1, received_bytes=0, connections=99),
    replace(FINANCE, number=FINANCE.number + 3, task_id="report", denied_packets=0, received_bytes=10),
)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    served = Agent(tmp_path)
    served.view = replace(VIEW, totals=replace(TOTALS, identities=ROWS))
    yield served
    served.server.stop()


def test_totals_by_dag_in_order(agent: Agent) -> None:
    for order, names in (("bytes", ["finance", "sales"]), ("connections", ["sales", "finance"])):
        rows = json.loads(agent.ask("top", "--sort", order, "-o", "json").output)
        assert [row["dag_id"] for row in rows] == names
    finance = json.loads(agent.ask("top", "-o", "json").output)[0]
    assert (finance["sent_bytes"], finance["received_bytes"], finance["connections"]) == (1300, 10010, 3)
    header, first, *_ = agent.ask("top").output.splitlines()
    assert header.split() == ["NAMESPACE", "DAG/TASK", "SENT", "RECEIVED", "CONNS", "DENIED", "AUDITED"]
    assert first.split() == ["airflow", "finance", "1.3", "kB", "10.0", "kB", "3", "18", "0"]


def test_by_task_and_with_filters(agent: Agent) -> None:
    rows = json.loads(agent.ask("top", "--by", "task", "--dag", "fin*", "-o", "json").output)
    assert [(row["task_id"], row["sent_bytes"]) for row in rows] == [("load", 1000), ("report", 300)]
    assert len(json.loads(agent.ask("top", "--last", "1", "-o", "json").output)) == 1
    assert "matches nothing here" in agent.ask("top", "--dag", "typo", code=1).output


def test_growth_is_never_negative_and_what_is_still_is_left_out() -> None:
    key = ("airflow", "finance", "")
    before, after = {key: Counts(sent_bytes=5, connections=9)}, {key: Counts(sent_bytes=8, connections=1)}
    assert grown(before, after) == {key: Counts(sent_bytes=3)}
    assert ordered(grown(after, after), "bytes", 20) == []
    assert summed([], by_task=True) == {}


def test_on_a_terminal_it_is_live(agent: Agent) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "agent", "top", "--interval", "0.5", "--socket", str(agent.socket)]
    with subprocess.Popen(command, stdout=follower, env={**os.environ, "TERM": "xterm"}) as live:
        try:
            shown, until = "", time.monotonic() + 20
            grow = iter(range(1, 1000))
            os.set_blocking(leader, False)
            while "RECEIVED/S" not in shown and time.monotonic() < until:
                sent = FINANCE.sent_bytes + next(grow) * 100_000
                agent.view = replace(VIEW, totals=replace(TOTALS, identities=(replace(FINANCE, sent_bytes=sent),)))
                time.sleep(0.1)
                try:
                    shown += os.read(leader, 65536).decode(errors="replace")
                except BlockingIOError:
                    continue
            assert "RECEIVED/S" in shown
            assert "finance" in shown
        finally:
            live.kill()
            os.close(leader)
            os.close(follower)
