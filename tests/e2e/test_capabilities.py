"""The DaemonSet's capabilities: together enough, each one needed. Other agents run beside it with one less."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import programs
from tests.e2e.agents import SYSTEM, container, daemonset
from tests.e2e.cluster import wait_for
from tests.e2e.workloads import POLICY, PORT, TASKS, Rig, task
from tests.releases import is_needed

ALL = "ALL"
CAPABILITIES: tuple[str, ...] = tuple(container(daemonset())["securityContext"]["capabilities"]["add"])


def name_of(without: str) -> str:
    return f"without-{without.lower().replace('_', '-')}" if without != ALL else "with-all"


def beside(rig: Rig, without: str) -> dict[str, Any]:
    """The DaemonSet's pod on its own, with pins, state and socket of its own, and one capability less."""
    name = name_of(without)
    template = copy.deepcopy(daemonset()["spec"]["template"])
    agent = template["spec"]["containers"][0]
    agent["args"] += [
        f"--pins=/sys/fs/bpf/{name}", f"--state=/var/lib/dagwall/{name}", f"--socket=/run/dagwall/{name}.sock",
        "--hubble-socket=", "--metrics=", "--probes=", "--log-level=debug",
        "--program-cache=/var/lib/dagwall/programs",
    ]  # fmt: skip
    agent["securityContext"]["capabilities"]["add"] = [c for c in CAPABILITIES if c != without]
    for key in ("startupProbe", "livenessProbe", "readinessProbe", "ports"):
        del agent[key]
    spec = {**template["spec"], "nodeName": rig.node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 5}
    metadata = {"name": name, "namespace": SYSTEM, "labels": {"e2e": "capabilities"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def events(rig: Rig, without: str) -> list[dict[str, Any]]:
    log = rig.cluster.log(SYSTEM, name_of(without), container="agent")
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def enforces(rig: Rig, without: str) -> bool:
    return any(event["event"] == "agent.enforcing" for event in events(rig, without))


def ended(rig: Rig, without: str) -> str:
    """The last words of an agent that ended; "" while it runs."""
    pod = rig.cluster.api.get(f"/api/v1/namespaces/{SYSTEM}/pods/{name_of(without)}")
    if pod["status"].get("phase") not in ("Failed", "Succeeded"):
        return ""
    return rig.cluster.log(SYSTEM, name_of(without), container="agent")[-3000:]


@pytest.fixture(scope="module")
def outcome(rig: Rig) -> Iterator[dict[str, str]]:
    """Last words by the capability that was missing; "" of the agents that enforce. All start at once."""
    pods = [beside(rig, without) for without in (ALL, *CAPABILITIES)]
    rig.cluster.delete(*pods)
    rig.cluster.apply(*pods)
    said = {}
    for without in (ALL, *CAPABILITIES):
        wait_for(f"end or success of {name_of(without)}", lambda w=without: ended(rig, w) or enforces(rig, w))  # type: ignore[misc]
        said[without] = ended(rig, without)
        print(f"{name_of(without)}: {said[without][-300:] or 'enforces'}")
    yield said
    rig.cluster.delete(*pods)
    for name in map(name_of, said):
        rig.agents.said(rig.node, "detach", "--yes", f"--pins=/sys/fs/bpf/{name}")


@pytest.fixture(scope="module")
def not_ended(rig: Rig, outcome: dict[str, str]) -> Iterator[dict[str, list[str]]]:
    """An established connection is revoked: why each agent that enforces could not end the socket."""
    talker = task("talker", programs.TALK, f"{rig.servers['allowed']},{PORT}")
    rig.cluster.delete(talker)
    rig.cluster.apply(talker)
    wait_for("words of the talker", lambda: "connected" in rig.cluster.log(TASKS, "talker"))
    closed = copy.deepcopy(POLICY)
    closed["spec"]["egress"] = []
    rig.cluster.apply(closed)
    wait_for("end of the socket", lambda: "ECONNABORTED" in rig.cluster.log(TASKS, "talker"))
    alive = [without for without, words in outcome.items() if not words]
    yield {
        without: [event["why"] for event in events(rig, without) if event["event"] == "socket.not_ended"]
        for without in alive
    }
    rig.cluster.apply(POLICY)
    rig.cluster.delete(talker)


def test_all_together_are_enough(outcome: dict[str, str], not_ended: dict[str, list[str]]) -> None:
    assert outcome[ALL] == ""
    assert not_ended[ALL] == []


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_without_one_it_fails_where_the_kernel_asks_for_it(
    capability: str, rig: Rig, outcome: dict[str, str], not_ended: dict[str, list[str]]
) -> None:
    why = outcome[capability][-500:] or not_ended[capability]
    print(why)
    release = rig.cluster.list("/api/v1/nodes")[0]["status"]["nodeInfo"]["kernelVersion"]
    assert bool(why) == is_needed(capability, release), why or f"everything works without {capability}"
