"""The scratch node itself: it leaves nothing on the machine, not even when its process is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

from lab.node import ScratchNode, cgroup_mount
from lab.remains import LOCKS


def _sleep() -> None:
    time.sleep(600)


def remains(name: str) -> list[str]:
    """Cgroup, lock, bpffs and network namespaces that are there."""
    netns = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    mounts = Path("/proc/self/mounts").read_text(encoding="ascii").splitlines()
    paths = [*cgroup_mount().glob(f"dagwall-{name}"), *LOCKS.glob(name)]
    found = [line for line in netns if line.startswith(f"{name}-")] + [m for m in mounts if f"/run/{name}-bpf" in m]
    return [*map(str, paths), *found]


def test_a_node_whose_process_was_killed_goes_with_the_next_one() -> None:
    said, ready = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        node = ScratchNode()
        node.__enter__()
        node.add_pod().spawn(_sleep)
        ready.send(node.name)
        time.sleep(600)
    name = said.recv()
    assert len(remains(name)) >= 5
    with ScratchNode() as beside:
        assert len(remains(name)) >= 5, "it lives"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with ScratchNode():
            assert remains(name) == []
            assert remains(beside.name), "nor this process's own"
    assert remains(beside.name) == []
