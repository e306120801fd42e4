"""Pods of every QoS class on a real kubelet: found, judged, and told why."""

from __future__ import annotations

import pytest

from tests.e2e import programs
from tests.e2e.cluster import wait_for
from tests.e2e.workloads import PORT, QOS, REFUSED, SERVERS, TASKS, Rig, Start, task


def test_the_agent_is_ready_and_attached(rig: Rig) -> None:
    status = rig.agents.ask(rig.node, "status")
    assert status["ready"], status["problems"]
    assert {hook["attached"] for hook in status["hooks"]} == {True}
    assert not status["outside"]
    print(f"process start to enforcing {status['enforcing_after_seconds']} s, {status['resident_bytes'] >> 20} MiB")


def test_every_qos_class_is_found_and_judged(rig: Rig, tasks: Start) -> None:
    tasks(*(task(qos, programs.SERVE, resources=resources) for qos, resources in QOS.items()))
    for name in QOS:
        row = rig.endpoint(name)
        assert row, f"{name} is no endpoint"
        assert (row["state"], row["dag_id"], row["task_id"]) == ("managed", "e2e", name)
        rig.judge(name)


def test_the_reason_is_told(rig: Rig, tasks: Start) -> None:
    tasks(task("curious", programs.SERVE))
    forbidden = rig.servers["forbidden"]
    assert rig.attempt("curious", f"tcp,{forbidden},{PORT}")[0] in REFUSED

    def told() -> str:
        said = rig.agents.said(rig.node, "why", "--dag", "e2e", "--task", "curious")
        return said if "no rule allows it" in said else ""

    said = wait_for("denial in `dagwall why`", told)
    print(said)
    assert f"TCP to {forbidden}:{PORT}" in said
    assert "nearest: " not in said, "no rule names this server"
    denied = [line for line in rig.agents.said(rig.node, "flows").splitlines() if "e2e/curious" in line]
    assert any("deny" in line and forbidden in line for line in denied), denied
    path = f"/api/v1/namespaces/{TASKS}/events"
    selector = "reason=NetworkDenied,involvedObject.name=curious"
    assert wait_for("Event NetworkDenied", lambda: rig.cluster.list(path, fieldSelector=selector))


def test_frames_are_refused_or_named_as_not_covered(rig: Rig, tasks: Start) -> None:
    """S6, L8: a pod with NET_RAW, as a container runtime gives it to pods that do not drop it."""
    sniffer = task("sniffer", programs.SERVE)
    sniffer["spec"]["containers"][0]["securityContext"] = {"capabilities": {"add": ["NET_RAW"]}}
    tasks(sniffer)
    status, row = rig.agents.ask(rig.node, "status"), rig.endpoint("sniffer")
    assert row
    refuses = dict(status["features"])["lsm_cgroup"]
    print(f"lsm_cgroup: {refuses}")
    said = rig.cluster.run(TASKS, "sniffer", "/usr/bin/python3", "-S", "-c", programs.FRAMES).strip()
    assert said == ("EPERM" if refuses else "ok")
    assert ("NET_RAW" in row["escapes"]) != refuses
    assert any("AF_PACKET" in sentence for sentence in status["not_covered"]) != refuses


@pytest.mark.parametrize("name", ["forbidden"])
def test_nobody_else_is_touched(rig: Rig, name: str) -> None:
    """The servers' namespace is not managed: its pods reach each other."""
    target = f"tcp,{rig.servers[name]},{PORT}"
    said = rig.cluster.run(SERVERS, "allowed", "/usr/bin/python3", "-S", "-c", programs.TRY, target)
    assert said.strip() == '["ok"]'
