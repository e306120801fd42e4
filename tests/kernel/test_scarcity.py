"""Tasks take what the kernel gives each uid once for all: watches, instances, turns of the agent. It goes on."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.app.agent import Agent
from agent.kernel.datapath import detach
from agent.outputs.notices import notices
from agent.sources import folder_events
from agent.sources.cgroups import find_cgroup2_mount
from agent.sync import endpoints
from lab.node import ScratchNode, join_cgroup
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp
from tests.kernel.test_agent import V4, Machine, pod_manifest, policy

REFUSED = ("EACCES", "EPERM")
WATCHER = """
import sys
from pathlib import Path
from agent.sources.cgroup_watch import CgroupWatcher

watcher = CgroupWatcher(Path(sys.argv[1]))
print(len(watcher.resync()), watcher.trouble, flush=True)
sys.stdin.readline()
print(len(watcher.read()), len(watcher.resync()), flush=True)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with ScratchNode() as node:
        try:
            node.serve(V4, 8001)
            node.serve(V4, 8002)
            yield Machine(node, tmp_path)
        finally:
            detach(node.bpffs / "dagwall")


@pytest.mark.parametrize(
    ("limit", "number", "said"),
    [("watches", 2, "no inotify watch is left for"), ("instances", 0, "no inotify instance is left")],
)
def test_a_watcher_at_the_kernels_own_limits_finds_everything_by_looking(limit: str, number: int, said: str) -> None:
    """In a user namespace, whose limits (user.max_inotify_*) are nobody else's."""
    top = find_cgroup2_mount() / f"dagwall-test-{uuid.uuid4().hex[:8]}"
    pods = [top / f"kubepods/burstable/pod{uuid.uuid4()}" for _ in range(3)]
    for pod in pods[:2]:
        pod.mkdir(parents=True)
    shell = f'echo {number} > /proc/sys/user/max_inotify_{limit}; exec "$@"'
    command = ["unshare", "-Ur", "sh", "-c", shell, "-", sys.executable, "-c", WATCHER, str(top)]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin
            assert child.stdout
            first = child.stdout.readline()
            assert first.startswith(f"3 {said}"), first
            pods[2].mkdir()
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "0 1\n", "no event, and found by the look"
    finally:
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()


def test_an_agent_without_folder_events_starts_enforces_and_says_so(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task as uid 0 has taken every watch of its uid, which is the agent's."""

    class Full(folder_events.INotify):  # type: ignore[misc]
        def add_watch(self, path: str, mask: int) -> int:
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(super().add_watch(path, mask))

    full = True
    monkeypatch.setattr(folder_events, "INotify", Full)
    first = machine.node.add_pod()
    machine.write("first.yaml", pod_manifest("first", first.uid, first.ipv4))
    machine.write("policy.yaml", policy("p", "etl", f"{V4}/32", 8001))
    with machine.agent() as agent:
        assert (first.run(tcp, V4, 8001), first.run(tcp, V4, 8002) in REFUSED) == ("ok", True)
        assert len(machine.outputs.newest.status.without_events) == 2
        assert any("no inotify watch is left" in text for text in notices(machine.outputs.newest))
        assert not agent.node.health.problems.keys() & {"folders", "kernel"}, "it is a convenience that is lacking"
        second = machine.node.add_pod()
        machine.write("second.yaml", pod_manifest("second", second.uid, second.ipv4))
        assert eventually(lambda: second.run(tcp, V4, 8001) == "ok", 3.0)
        assert second.run(tcp, V4, 8002) in REFUSED
        full = False
        assert eventually(lambda: machine.outputs.newest.status.without_events == (), 5.0)


def test_a_pending_pod_with_many_cgroups_costs_little(machine: Machine) -> None:
    """Each of its cgroups asks the agent; the answer is the same for all of them for as long as it is pending."""
    free = machine.node.add_pod()
    machine.write("free.yaml", pod_manifest("free", free.uid, free.ipv4))
    machine.write("policy.yaml", policy("p", "etl", f"{V4}/32", 8001))
    with machine.agent() as agent:
        agent.node.classifier.whole_truth = False  # as the API: a pod that it does not know is pending
        busy = machine.node.add_pod()
        assert eventually(lambda: len(agent.node.folders.pods) > 3)
        nests = [busy.container / f"n{number}" for number in range(3000)]
        for nest in nests:
            nest.mkdir()
        busy.spawn(_send_from, nests)
        time.sleep(0.5)
        before = sum(os.times()[:2])
        time.sleep(2.0)
        spent = sum(os.times()[:2]) - before
        assert free.run(tcp, V4, 8001) == "ok"
        assert len(agent.datapath.maps["pending"].keys()) >= 3000
    assert spent < 0.6, f"{spent / 2:.0%} of a CPU"


def _send_from(nests: list[Path]) -> None:
    """Datagrams from all of these cgroups, as fast as it goes."""
    sockets = []
    for nest in nests:
        join_cgroup(nest)
        sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    while True:
        for each in sockets:
            each.sendto(b"?", (V4, 8001))


def test_denials_of_pods_that_have_gone_make_room_and_stay_counted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many short pods, each denied in its own slot: in the end one entry, that says all of it, restart included."""
    monkeypatch.setattr(endpoints, "LINGER_SECONDS", 0.5)
    small = {"denials": 16}
    pods = [machine.node.add_pod() for _ in range(6)]
    for number, pod in enumerate(pods):
        machine.write(f"p{number}.yaml", pod_manifest(f"p{number}", pod.uid, pod.ipv4))
    machine.write("policy.yaml", policy("p", "etl", f"{V4}/32", 8001))
    with machine.agent(map_entries=small) as agent:
        for pod in pods:
            for _ in range(3):
                assert pod.run(tcp, V4, 8002) in REFUSED
        assert _denied(agent) == 18
        assert len({row.slot for row in agent.totals.folding.totals()}) == 6
        for folder in [folder for pod in pods[:5] for folder in pod.folder.rglob("*") if folder.is_dir()]:
            folder.rmdir()
        for pod in pods[:5]:
            pod.folder.rmdir()
        assert eventually(lambda: len(agent.totals.folding.totals()) == 2, 10.0)
        assert _denied(agent) == 18
    with machine.agent(map_entries=small) as again:
        assert _denied(again) == 18


def _denied(agent: Agent) -> int:
    return sum(row.packets for row in agent.totals.folding.totals())
