"""The cgroup tree: where it is mounted, and every folder in it that is a pod's, a container's or a pods' root."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import KernelError
from agent.model.identity import PodUid
from agent.sources.cgroup_names import Place, Role, step

MAX_DEPTH = 12
GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOTDIR})  # ENODEV: being removed


@dataclass(frozen=True, slots=True)
class RootFolder:
    """A root of pods: programs are attached here. `path` is seen from the cgroup mount; `cgroup_id` the inode."""

    path: str
    cgroup_id: int
    level: int


@dataclass(frozen=True, slots=True)
class PodFolder:
    """A folder that names a pod (L1); one pod may have two, of which one stays empty."""

    uid: PodUid
    path: str
    cgroup_id: int
    level: int  # counted from the mount's top; inside a cgroup namespace the kernel counts further
    root: str  # "" where no root is above it

    @property
    def outside(self) -> bool:
        """No program sees what is in here."""
        return not self.root

    @property
    def static(self) -> bool:
        """Named after a static pod's hash (L2a)."""
        return "-" not in self.uid


@dataclass(frozen=True, slots=True)
class ContainerFolder:
    """A container's or sandbox's folder. `outside`: the runtime's cgroup driver differs (docs/cgroups.md)."""

    uid: PodUid
    container_id: str
    path: str
    cgroup_id: int
    level: int
    root: str

    @property
    def outside(self) -> bool:
        """No program sees what is in here."""
        return not self.root


Folder = RootFolder | PodFolder | ContainerFolder


def folder_at(here: Place, cgroup_id: int) -> Folder | None:
    """What a place is worth reporting as."""
    if here.role is Role.ROOT:
        return RootFolder(here.path, cgroup_id, here.level)
    if here.role is Role.POD:
        return PodFolder(here.uid, here.path, cgroup_id, here.level, here.root)
    if here.role is Role.CONTAINER:
        return ContainerFolder(here.uid, here.container_id, here.path, cgroup_id, here.level, here.root)
    return None


def scan(mount: Path, roots: frozenset[str] = frozenset()) -> tuple[Folder, ...]:
    """Every root, pod and container below `mount`, parents first. Folders that vanish meanwhile are left out."""
    return tuple(folder for here, ino in walk(mount, Place(), roots) if (folder := folder_at(here, ino)) is not None)


def walk(mount: Path, top: Place, roots: frozenset[str]) -> Iterator[tuple[Place, int]]:
    """Places below `top` with their inodes, parents first; what is inside a container is not entered."""
    pending = [top]
    while pending:
        parent = pending.pop()
        for name, inode in subfolders(mount, parent.path):
            here = step(parent, name, roots)
            yield here, inode
            if here.role not in (Role.CONTAINER, Role.BELOW) and here.level < MAX_DEPTH:
                pending.append(here)


def subfolders(mount: Path, path: str) -> list[tuple[str, int]]:
    """Names and inodes of the folders in a folder; none if it has gone."""
    try:
        with os.scandir(f"{mount}{path}") as entries:
            return [(entry.name, entry.inode()) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as exc:
        if exc.errno in GONE:
            return []
        raise KernelError(f"list cgroups in {mount}{path}: {exc.strerror}") from exc


def cgroup2_mount(mountinfo: str) -> Path:
    """The cgroup v2 mount in a text of /proc/self/mountinfo that shows most of the tree.

    In a container with a cgroup namespace, the host's tree shows as root `/../..`, the container's own as `/`.
    """
    found: list[tuple[int, str]] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or after.split()[:1] != ["cgroup2"]:
            continue
        up = [part for part in fields[3].split("/") if part]
        if all(part == ".." for part in up):
            found.append((len(up), _unescaped(fields[4])))
    if not found:
        raise KernelError("no cgroup v2 mount in /proc/self/mountinfo; dagwall needs the unified hierarchy")
    return Path(max(found, key=lambda entry: entry[0])[1])


def find_cgroup2_mount() -> Path:
    """The cgroup v2 mount of this process's mount namespace."""
    return cgroup2_mount(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))


def _unescaped(path: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path
