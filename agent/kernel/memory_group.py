"""Whose memory the maps are charged to: the machine's, not the agent's.

The kernel charges a map, and later every entry and every socket's storage in it, to the memory group of the process
that makes it (kernel: kernel/bpf/syscall.c, bpf_map_save_memcg; from 5.11 on). A task that opens a million sockets
pays for each, and puts 0.4 KB of storage beside it: charged to the agent, that would end the agent at its limit, and
every agent after it.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWCGROUP = 0x02000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_OF_THE_HOST = Path("/proc/1/ns/cgroup")
_FIRST_NAMESPACE = 0xEFFFFFFB
"""Inode of the kernel's first cgroup namespace (include/linux/proc_ns.h, PROC_CGROUP_INIT_INO)."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted tree of the memory controller. `controllers` as /proc/self/cgroup names it: "" for cgroup v2."""

    mount: Path
    controllers: str


def leave() -> str:
    """Put this process into the machine's own memory group; why not, or "".

    For a process that ends soon: it has no limit any more. Needs the host's process ids, for its cgroup namespace,
    and a tree of cgroups that may be written to.
    """
    try:
        _enter_namespace_of_host()
        tree = hierarchy()
        if tree is None:
            return "no tree of the memory controller is mounted from its root"
        (tree.mount / "cgroup.procs").write_text("0", encoding="ascii")
    except OSError as exc:
        return f"{exc.strerror}" + (f": {exc.filename}" if exc.filename else "")
    return "" if own_group(tree) == "/" else f"it is in {own_group(tree)} still"


def hierarchy(mountinfo: Path = Path("/proc/self/mountinfo")) -> Hierarchy | None:
    """The tree whose root is mounted (mountinfo: proc(5)): of cgroup v2 if it has the controller, else of v1."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.read_text(encoding="utf-8").splitlines():
        own, _, kind = line.partition(" - ")
        root, mount = own.split()[3:5]
        options = kind.split()
        if root != "/":
            continue
        if options[0] == "cgroup2" and "memory" in _controllers(Path(mount)):
            found["v2"] = Hierarchy(Path(mount), "")
        elif options[0] == "cgroup" and "memory" in options[-1].split(","):
            found["v1"] = Hierarchy(Path(mount), "memory")
    return found.get("v2", found.get("v1"))


def own_group(tree: Hierarchy) -> str:
    """The path of this process's group in that tree; "" where it is in none."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if tree.controllers in controllers.split(","):
            return path
    return ""


def _controllers(mount: Path) -> list[str]:
    try:
        return (mount / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return []


def _enter_namespace_of_host() -> None:
    """A container's own cgroup namespace ends at its own group: nothing may be moved out of it from inside."""
    if os.stat("/proc/self/ns/cgroup").st_ino == _FIRST_NAMESPACE:
        return
    fd = os.open(_OF_THE_HOST, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(fd, _CLONE_NEWCGROUP) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(_OF_THE_HOST))
    finally:
        os.close(fd)
