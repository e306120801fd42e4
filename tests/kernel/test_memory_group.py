"""Maps are charged to the machine: what pods put into them is not the agent's to pay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.kernel.memory_group import Hierarchy, hierarchy
from lab.memory import MemoryLimit
from tests.kernel.rig import Rig

MIB = 1 << 20
_MAKE = """
import sys
from agent.kernel import memory_group, syscall
syscall.raise_memlock()
if sys.argv[1] == "leave":
    assert memory_group.leave() == ""
syscall.pin(syscall.map_create(syscall.MapType.ARRAY, 4, 8, 8 << 20), sys.argv[2])
"""


_IN_A_CONTAINER = """
import ctypes, sys
from pathlib import Path
from agent.kernel import memory_group
assert ctypes.CDLL(None).unshare(0x02000000) == 0  # CLONE_NEWCGROUP
tree = memory_group.hierarchy()
assert tree is None or memory_group.own_group(tree) == "/", "its own group looks like the root"
memory_group._OF_THE_HOST = Path(f"/proc/{sys.argv[1]}/ns/cgroup")
assert memory_group.leave() == "", memory_group.leave()
"""


def test_a_container_s_own_cgroup_namespace_is_left_first() -> None:
    """As the DaemonSet's loader: the runtime gives it a namespace whose root is its own group."""
    limit = MemoryLimit(200 * MIB)
    command = [*limit.command(), sys.executable, "-c", _IN_A_CONTAINER, str(os.getpid())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
    finally:
        limit.close()


@pytest.mark.parametrize(("way", "least", "most"), [("stay", 60, 120), ("leave", 0, 30)])
def test_a_map_is_charged_to_the_group_of_its_maker(rig: Rig, way: str, least: int, most: int) -> None:
    """64 MiB, in a group of 200."""
    limit, pin = MemoryLimit(200 * MIB), rig.node.bpffs / f"large-{way}"
    try:
        subprocess.run([*limit.command(), sys.executable, "-c", _MAKE, way, str(pin)], check=True, timeout=60)
        assert least * MIB <= limit.now() <= most * MIB
    finally:
        pin.unlink(missing_ok=True)
        limit.close()


def test_the_loader_s_maps_are_not_the_agent_s(rig: Rig) -> None:
    assert rig.loaded.charged == ""


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["41 31 0:38 / {v2} rw - cgroup2 cgroup2 rw"], "v2"),
        (["35 31 0:32 / {v1} rw - cgroup cgroup rw,memory"], "v1"),
        (["35 31 0:32 / {v1} rw - cgroup cgroup rw,memory", "41 31 0:38 / {v2} rw - cgroup2 cgroup2 rw"], "v2"),
        (["41 31 0:38 / {none} rw - cgroup2 cgroup2 rw", "35 31 0:32 / {v1} rw - cgroup cgroup rw,memory"], "v1"),
        (["41 31 0:38 /kubepods/podX {v2} rw shared:1 master:2 - cgroup2 cgroup2 rw"], None),
        (["35 31 0:32 / {v1} rw - cgroup cgroup rw,cpu,cpuacct"], None),
        ([], None),
    ],
)
def test_the_tree_of_the_memory_controller(tmp_path: Path, lines: list[str], found: str | None) -> None:
    for name, controllers in (("v2", "cpu memory pids"), ("none", "hugetlb"), ("v1", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.controllers").write_text(controllers)
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("\n".join(lines).format(**{name: tmp_path / name for name in ("v1", "v2", "none")}))
    expected = None if found is None else Hierarchy(tmp_path / found, "memory" if found == "v1" else "")
    assert hierarchy(mountinfo) == expected
