"""Mounts and scans, on folders of a temporary directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.sources.cgroups import ContainerFolder, PodFolder, RootFolder, cgroup2_mount, scan

UID = "cc7a1de5-1bf8-4567-ae3a-697995d1d600"
STATIC = "0123456789abcdef0123456789abcdef"
CID = "ab" * 32

HYBRID = """\
25 30 0:22 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
40 25 0:35 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw
41 25 0:36 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
"""
POD = """\
900 800 0:35 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup ro
901 800 0:35 /../../.. /host/sys/fs/my\\040cgroup rw - cgroup2 cgroup rw
902 800 0:35 /../../../kubepods.slice /pods rw - cgroup2 cgroup rw
"""


def test_hybrid_mount() -> None:
    assert cgroup2_mount(HYBRID) == Path("/sys/fs/cgroup/unified")


def test_in_a_pod_the_hosts_tree_is_preferred() -> None:
    assert cgroup2_mount(POD) == Path("/host/sys/fs/my cgroup")


def test_no_mount_is_an_error() -> None:
    with pytest.raises(KernelError, match="unified hierarchy"):
        cgroup2_mount("25 30 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\nbroken line\n")


def test_scan_finds_both_trees_static_pods_and_strays(tmp_path: Path) -> None:
    under = UID.replace("-", "_")
    pod = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice"
    folders = {
        "systemd": f"{pod}/cri-containerd-{CID}.scope/inner/pod{STATIC}",
        "cgroupfs": f"kubepods/burstable/pod{UID}",
        "static": f"kubepods/pod{STATIC}",
        "stray": f"system.slice/kubepods-pod{under}.slice:cri-containerd:{CID}",
        "other": "user.slice/user-0.slice",
    }
    for path in folders.values():
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "kubepods/cgroup.procs").touch()

    def inode(path: str) -> int:
        return (tmp_path / path).stat().st_ino

    container = f"{pod}/cri-containerd-{CID}.scope"
    found = scan(tmp_path)
    assert set(found) == {
        RootFolder("/kubepods.slice", inode("kubepods.slice"), 1),
        RootFolder("/kubepods", inode("kubepods"), 1),
        PodFolder(UID, f"/{pod}", inode(pod), 3, "/kubepods.slice"),  # type: ignore[arg-type]
        PodFolder(UID, f"/{folders['cgroupfs']}", inode(folders["cgroupfs"]), 3, "/kubepods"),  # type: ignore[arg-type]
        PodFolder(STATIC, f"/{folders['static']}", inode(folders["static"]), 2, "/kubepods"),  # type: ignore[arg-type]
        ContainerFolder(UID, CID, f"/{container}", inode(container), 4, "/kubepods.slice"),  # type: ignore[arg-type]
        ContainerFolder(UID, CID, f"/{folders['stray']}", inode(folders["stray"]), 2, ""),  # type: ignore[arg-type]
    }
    assert len(found) == 7
    assert [f.uid for f in found if isinstance(f, PodFolder) and f.static] == [STATIC]
    assert [f.path for f in found if not isinstance(f, RootFolder) and f.outside] == [f"/{folders['stray']}"]
