"""Agents come and go under traffic: no forbidden connection passes, no allowed one fails."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.e2e import programs
from tests.e2e.agents import container, daemonset
from tests.e2e.cluster import Cluster, NodeShell, wait_for
from tests.e2e.workloads import PORT, TASKS, Rig, Start, task

CLIENTS = ("client-a", "client-b")


def lines(cluster: Cluster, client: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cluster.log(TASKS, client).splitlines() if line.startswith("{")]


def start(tasks: Start, servers: dict[str, str]) -> None:
    targets = [f"{servers[name]},{PORT}" for name in ("allowed", "forbidden")]
    tasks(*(task(name, programs.TRAFFIC, *targets) for name in CLIENTS))


def judge(cluster: Cluster, since: float, until: float) -> None:
    """No surprise in all of the traffic, and there was traffic between these moments of the node's clock."""
    for client in CLIENTS:
        said = lines(cluster, client)
        assert [line for line in said if "surprise" in line] == []
        counts = [line["counts"] for line in said if "counts" in line and since <= line["time"] <= until]
        for kind in ("allowed ok", "forbidden refused"):
            assert counts[-1][kind] - counts[0][kind] >= 5, (client, kind, counts[0], counts[-1])
        print(f"{client}: {counts[-1]} in all, {len(counts)} reports during the change")


def now(cluster: Cluster, client: str) -> float:
    """The clock of the pods' node, from the newest report."""
    return float(wait_for(f"traffic of {client}", lambda: lines(cluster, client))[-1]["time"])


def test_a_rolling_update_lets_nothing_through_and_breaks_nothing(rig: Rig, tasks: Start) -> None:
    cluster, agents = rig.cluster, rig.agents
    start(tasks, rig.servers)
    since = now(cluster, CLIENTS[0])
    before = {pod["metadata"]["uid"] for pod in agents.pods()}
    rolled = daemonset()
    rolled["spec"]["template"]["metadata"]["annotations"] = {"e2e": str(time.time())}
    container(rolled)["args"].append("--event-rate=11")
    agents.roll(rolled)
    assert not before & {pod["metadata"]["uid"] for pod in agents.pods()}
    time.sleep(5)
    judge(cluster, since, now(cluster, CLIENTS[0]))


def test_a_killed_agent_changes_nothing(rig: Rig, tasks: Start, shell: NodeShell) -> None:
    cluster, agents = rig.cluster, rig.agents
    start(tasks, rig.servers)
    since = now(cluster, CLIENTS[0])
    restarts = agents.restarts(rig.node)
    shell.run("kill -9 $(pgrep -f '^/opt/dagwall/bin/python.* run ')")
    wait_for("restart of the agent", lambda: agents.restarts(rig.node) > restarts)
    wait_for("ready agents", agents.ready)
    judge(cluster, since, now(cluster, CLIENTS[0]))
