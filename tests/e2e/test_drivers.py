"""Cgroup layouts of real kubelets: both drivers, a cgroupRoot, and drivers that differ. No pod survives a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e import programs, workloads
from tests.e2e.cluster import NodeShell, wait_for
from tests.e2e.workloads import QOS, TASKS, Reconfigure, Rig, Start, task

USUAL = ("systemd", "systemd", "")
LAYOUTS = {
    ("cgroupfs", "cgroupfs", ""): "/kubepods",
    ("systemd", "systemd", "/kubelet"): "/kubelet.slice/kubelet-kubepods.slice",
    ("cgroupfs", "cgroupfs", "/kubelet"): "/kubelet/kubepods",
    USUAL: "/kubepods.slice",
}
"""The kubelet's driver, the runtime's, cgroupRoot; the root that programs must be attached to."""

Change = Callable[[tuple[str, str, str]], None]


@pytest.fixture(scope="module")
def change(rig: Rig, reconfigure: Reconfigure) -> Iterator[Change]:
    """Other drivers, then the echo servers again, at new addresses. As it was, after the tests."""

    def run(drivers: tuple[str, str, str]) -> None:
        pods = [workloads.pod(name, workloads.SERVERS, programs.SERVE) for name in rig.servers]
        rig.cluster.delete(*pods)
        reconfigure(*drivers)
        rig.servers.update(workloads.start(rig.cluster, *pods))

    yield run
    run(USUAL)
    wait_for("ready agents", rig.agents.ready)


@pytest.mark.parametrize("drivers", LAYOUTS, ids=" ".join)
def test_each_layout_is_enforced(rig: Rig, change: Change, tasks: Start, drivers: tuple[str, str, str]) -> None:
    change(drivers)
    wait_for("ready agents", rig.agents.ready)
    hooks = rig.agents.ask(rig.node, "status")["hooks"]
    assert LAYOUTS[drivers] in {hook["root"] for hook in hooks if hook["attached"]}
    tasks(*(task(qos, programs.SERVE, resources=resources) for qos, resources in QOS.items()))
    for name in QOS:
        row = rig.endpoint(name)
        assert row, f"{name} is no endpoint"
        assert row["state"] == "managed"
        rig.judge(name)


def test_drivers_that_differ_are_said_with_the_pods_names(
    rig: Rig, change: Change, tasks: Start, shell: NodeShell
) -> None:
    """The kubelet's folders of pods stay empty, and no program sees their packets: not ready, and never silent."""
    change(("systemd", "cgroupfs", ""))
    tasks(task("escaped", programs.SERVE))
    assert "cri-containerd" not in shell.run("find /sys/fs/cgroup/kubepods.slice -type d")
    wait_for("an agent that answers", lambda: rig.agents.answers(rig.node))
    wait_for("name of the pod that no program sees", lambda: _names(rig, f"{TASKS}/escaped"))
    status = rig.agents.ask(rig.node, "status")
    print(*status["problems"], sep="\n")
    assert not status["ready"]
    assert any(problem.startswith("containers outside the pods' roots") for problem in status["problems"])
    wait_for("an agent that the kubelet calls not ready", lambda: not rig.agents.ready())


def _names(rig: Rig, pod: str) -> bool:
    """The first problem has as many names as fit into a line, the list has all."""
    return any(line.startswith(pod) for line in rig.agents.ask(rig.node, "status")["outside"])
