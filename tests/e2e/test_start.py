"""From a pod's start to its first answer: enforced before its first instruction, and not slower than that."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e import programs
from tests.e2e.cluster import Cluster, wait_for
from tests.e2e.workloads import PORT, REFUSED, TASKS, Rig, task

PODS = 5

LOOK = """
import json, sys, time
from pathlib import Path
from agent.outputs.client import Client
wanted, seen, client = set(sys.argv[1:]), {}, Client(Path("/run/dagwall/dagwall.sock"))
while wanted - seen.keys():
    for row in client.ask("endpoints"):
        if row["pod"] in wanted and row["state"] == "managed":
            seen.setdefault(row["pod"], time.time())
    time.sleep(0.1)
print(json.dumps(seen))
"""
"""Runs in the agent's container: when each of the named pods was first seen managed, by the node's clock."""


def first(cluster: Cluster, name: str) -> dict[str, Any]:
    """What a pod said of its first attempts."""
    return dict(json.loads(wait_for(f"words of {name}", lambda: cluster.log(TASKS, name).strip())))


def test_a_pod_is_enforced_before_its_first_instruction(rig: Rig) -> None:
    cluster, agents = rig.cluster, rig.agents
    targets = [f"tcp,{rig.servers[name]},{PORT}" for name in ("allowed", "forbidden")]
    names = [f"first-{number}" for number in range(PODS)]
    for name in names:
        pod = task(name, programs.FIRST, *targets)
        cluster.delete(pod)
        cluster.apply(pod)
    seen = json.loads(agents.python(rig.node, LOOK, *names))
    try:
        report(names, seen, {name: first(cluster, name) for name in names})
    finally:
        cluster.delete(*(task(name, programs.FIRST) for name in names))


def report(names: list[str], seen: dict[str, float], said: dict[str, dict[str, Any]]) -> None:
    for name in names:
        allowed, forbidden = said[name]["said"]
        ahead, took = said[name]["start"] - seen[name], said[name]["end"] - said[name]["start"]
        print(f"{name}: enforced {ahead:.2f} s before its first instruction; both attempts took {took * 1000:.0f} ms")
        assert allowed == "ok", name
        assert forbidden in REFUSED, name
        assert ahead > 0, name
