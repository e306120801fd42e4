"""Where dagwall keeps its kernel objects: one folder of bpffs, so that they outlive the agent.

ROOT/v1/maps/NAME           all maps; an existing pin is used as it is
ROOT/v1/schema              what is in them (agent.abi.schema); the last pin of a start, so that its maps are whole
ROOT/v1/programs/N/NAME     one generation of programs and their tail arrays
ROOT/v1/links/CGROUP/HOOK   attachments, by the id of the root cgroup
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from agent.abi.structs import ABI_VERSION
from agent.errors import KernelError

_BPF_FS_MAGIC = 0xCAFE4A11
_OUR_MOUNT = b"dagwall"
"""The source of a bpffs that an agent has mounted, as /proc/self/mountinfo shows it."""
_OF_THE_KERNEL = {"maps.debug", "progs.debug"}
"""What it puts into each bpffs itself (kernel/bpf/preload)."""
_UMOUNT_NOFOLLOW = 8
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Pins:
    """Paths below one root, of this release's ABI version or another's."""

    root: Path
    abi: int = ABI_VERSION

    @property
    def version(self) -> Path:
        return self.root / f"v{self.abi}"

    @property
    def schema(self) -> Path:
        return self.version / "schema"

    def others(self) -> list[Pins]:
        """Pins of other ABI versions below the same root, oldest first."""
        folders = self.root.glob("v*") if self.root.is_dir() else ()
        numbers = sorted(int(folder.name[1:]) for folder in folders if folder.name[1:].isdigit())
        return [Pins(self.root, number) for number in numbers if number != self.abi]

    def remove_version(self) -> None:
        """Everything of this ABI version."""
        shutil.rmtree(self.version, ignore_errors=True)

    @property
    def maps(self) -> Path:
        return self.version / "maps"

    @property
    def links(self) -> Path:
        return self.version / "links"

    def programs(self, generation: int) -> Path:
        return self.version / "programs" / str(generation)

    def generations(self) -> list[int]:
        """Numbers of the generations that are pinned, oldest first."""
        folder = self.version / "programs"
        return sorted(int(entry.name) for entry in folder.iterdir()) if folder.is_dir() else []

    def next_generation(self) -> int:
        return max(self.generations(), default=0) + 1

    def remove_generation(self, generation: int) -> None:
        shutil.rmtree(self.programs(generation), ignore_errors=True)

    def linked_roots(self) -> set[int]:
        """Ids of the cgroups that links of this ABI version are pinned for."""
        return {int(folder.name) for folder in self.links.iterdir()} if self.links.is_dir() else set()

    def lock(self) -> int:
        """A descriptor that holds these pins for this agent, until its end. They are there from then on.

        Raises KernelError where another agent has them, whatever its other folders are.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        held = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(held)
            if isinstance(exc, BlockingIOError):
                raise KernelError(
                    f"--pins {self.root}: another agent enforces by these pins; two would undo each other's rules"
                ) from exc
            raise KernelError(f"--pins {self.root}: lock: {exc.strerror}") from exc
        return held

    def refuse_taken(self) -> None:
        """KernelError where another agent has these pins, in the words of `lock`; makes and holds nothing."""
        if self.root.is_dir():
            os.close(self.lock())

    def is_held_by(self, lock: int) -> bool:
        """Is the folder still the one that `lock` is of? Somebody may have removed it, or unmounted its bpffs."""
        try:
            return os.path.samestat(os.fstat(lock), os.stat(self.root))
        except OSError:
            return False

    def all_links(self) -> list[Path]:
        """Of every release: where there is none, nothing is enforced from these pins."""
        return list(self.root.glob("v*/links/*/*"))

    def remove_links(self, cgroup_id: int) -> None:
        shutil.rmtree(self.links / str(cgroup_id), ignore_errors=True)

    def remove_all(self) -> None:
        """Everything below the root: maps, programs and links of every version."""
        if self.root.exists():
            shutil.rmtree(self.root)


def ensure_bpffs(folder: Path) -> None:
    """Mounts a bpffs on `folder` unless it is on one already (needs SYS_ADMIN then).

    Raises KernelError where that is not possible.
    """
    if is_bpffs(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = next(folder.iterdir(), None)
    except OSError as exc:
        raise KernelError(f"--pins: no bpffs at {folder}, and none can be mounted there: {exc.strerror}") from exc
    if hidden is not None:
        raise KernelError(
            f"--pins: no bpffs at {folder}, and one mounted there would hide {hidden.name}: name another"
        )
    if _LIBC.mount(_OUR_MOUNT, os.fsencode(folder), b"bpf", 0, None) != 0:
        code = ctypes.get_errno()
        raise KernelError(f"no bpffs at {folder}, and mounting one failed: {os.strerror(code)}")


def leave_bpffs(folder: Path) -> bool:
    """Unmounts the bpffs of `folder` if an agent has mounted it and nothing is left in it. Was it?"""
    path = os.fsencode(folder.resolve())
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    found = [each for each in mounts if each[4] == path]
    if not found or found[-1][-3:-1] != [b"bpf", _OUR_MOUNT]:
        return False
    if {entry.name for entry in folder.iterdir()} - _OF_THE_KERNEL:
        return False
    return int(_LIBC.umount2(path, _UMOUNT_NOFOLLOW)) == 0  # not while somebody has it open


def is_bpffs(folder: Path) -> bool:
    """Is the nearest existing parent of `folder` on a bpffs?"""
    while not folder.exists():
        folder = folder.parent
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statfs(os.fsencode(folder), buffer) != 0:
        return False
    return int(ctypes.c_long.from_buffer(buffer).value) == _BPF_FS_MAGIC
