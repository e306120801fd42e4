"""Pods' cgroups as they come and go, by inotify: a few hundred microseconds from mkdir to event."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from inotify_simple import flags

from agent.errors import KernelError
from agent.sources.cgroup_names import Place, Role, step
from agent.sources.cgroups import GONE, ContainerFolder, Folder, RootFolder, folder_at, subfolders, walk
from agent.sources.folder_events import FolderEvents
from agent.sources.inner_folders import InnerFolders

_MASK = flags.CREATE | flags.DELETE | flags.ONLYDIR
_WATCH_DEPTH = 1  # beside the roots: the mount's top and its children, where roots and stray containers appear


@dataclass(frozen=True, slots=True)
class Added:
    """A folder is there. Parents come before children."""

    folder: Folder


@dataclass(frozen=True, slots=True)
class Removed:
    """A folder has gone. Children come before parents."""

    folder: Folder


CgroupEvent = Added | Removed


@dataclass(slots=True)
class CgroupWatcher:
    """Folders below `mount` that matter. `roots`: --cgroup-root; none: every folder that is named as a pods' root.

    Watch first, then list: a folder made in between is seen by both and reported once. A path whose inode has changed
    is a removal and an addition. When the kernel's queue overflows, everything is listed again. Folders
    that the kernel has no watch for are found by `resync` only, and `trouble` names the reason.
    """

    mount: Path
    roots: frozenset[str] = frozenset()
    known: dict[str, Folder] = field(default_factory=dict)
    overflows: int = 0
    events: FolderEvents = field(default_factory=FolderEvents)
    _places: dict[int, Place] = field(default_factory=dict)  # watch descriptor -> folder
    _inner: InnerFolders = field(init=False)
    _untold: list[CgroupEvent] = field(default_factory=list)  # found, and not returned yet

    def __post_init__(self) -> None:
        self._inner = InnerFolders(self.mount)

    @property
    def trouble(self) -> str:
        """Why some folders are found by `resync` only; "" while there are events of all."""
        return self.events.trouble

    def fileno(self) -> int:
        """For poll(): readable when `read` has something to do; -1 while there are no events at all."""
        return self.events.fileno()

    def lost(self) -> dict[str, int]:
        """How often the kernel's queue overflowed, so that all folders were listed again. Any thread."""
        return {"folder_events": self.overflows}

    def close(self) -> None:
        self.events.close()

    def read(self, timeout_seconds: float = 0.0) -> list[CgroupEvent]:
        """What happened since the last call; waits up to `timeout_seconds` for a first event.

        Raises KernelError; what was found until then comes with the next call.
        """
        for event in self.events.read(timeout_seconds):
            parent = self._places.get(event.wd)
            if event.mask & flags.Q_OVERFLOW:
                self.overflows += 1
                self._compare()
            elif event.mask & flags.IGNORED:
                self._places.pop(event.wd, None)
            elif parent is not None and event.mask & flags.ISDIR:
                self._look(step(parent, event.name, self.roots))
        return self._take()

    def paths_of(self, cgroup_id: int) -> list[Path]:
        """Where processes of a folder's pod may be: the folder itself, then the pod's containers. Any thread.

        Of a folder below a container's: that of the container, then the pod's others.
        """
        known = list(self.known.values())
        own = [folder for folder in known if folder.cgroup_id == cgroup_id]
        if not own and (above := self._inner.above(cgroup_id, known)):
            own = [folder for folder in known if folder.path == above]
        uids = {folder.uid for folder in own if not isinstance(folder, RootFolder)}
        others = [folder for folder in known if isinstance(folder, ContainerFolder) and folder.uid in uids]
        return [self.mount / folder.path.lstrip("/") for folder in (*own, *others)]

    def resync(self) -> list[CgroupEvent]:
        """Compare the whole tree with what is known. The first call starts; later ones repair. Raises KernelError."""
        self._compare()
        return self._take()

    def _compare(self) -> None:
        if self._inode("/") is None:
            raise KernelError(f"watch cgroups in {self.mount}: no such folder")
        self.events.unwatched.clear()
        self._watch(Place())
        seen: set[str] = set()
        for here, inode in walk(self.mount, Place(), self.roots):
            seen.add(here.path)
            self._enter(here, inode)
        self._forget([path for path in self.known if path not in seen and self._inode(path) is None])

    def _take(self) -> list[CgroupEvent]:
        found, self._untold = self._untold, []
        return found

    def _look(self, here: Place) -> None:
        """A folder was made or removed at this place; only what is there now counts."""
        inode = self._inode(here.path)
        if inode is None:
            self._forget([path for path in self.known if _within(path, here.path)])
        else:
            self._enter(here, inode)

    def _enter(self, here: Place, inode: int) -> None:
        """Report a folder, watch it, and enter what is in it already."""
        folder, old = folder_at(here, inode), self.known.get(here.path)
        if old is not None and old != folder:
            self._forget([path for path in self.known if _within(path, here.path)])
        if folder is not None and old != folder:
            self.known[here.path] = folder
            self._untold.append(Added(folder))
        if _watched(here) and self._watch(here):
            for name, child in subfolders(self.mount, here.path):
                self._enter(step(here, name, self.roots), child)

    def _forget(self, paths: list[str]) -> None:
        self._untold += [Removed(self.known.pop(path)) for path in sorted(paths, reverse=True)]

    def _watch(self, here: Place) -> bool:
        """Whether this watch is a new one; a folder that has gone meanwhile has none.

        True without a watch: such a folder may have been filled since it was listed.
        """
        try:
            wd = self.events.watch(f"{self.mount}{here.path}", _MASK)
        except OSError as exc:
            if exc.errno in GONE:
                return False
            raise KernelError(f"watch cgroup {self.mount}{here.path}: {exc.strerror}") from exc
        if wd is None:
            return True
        new = wd not in self._places
        self._places[wd] = here
        return new

    def _inode(self, path: str) -> int | None:
        try:
            return os.stat(f"{self.mount}{path}", follow_symlinks=False).st_ino
        except OSError:
            return None


def _watched(here: Place) -> bool:
    return here.role in (Role.ROOT, Role.INNER, Role.POD) or (here.role is Role.OTHER and here.level <= _WATCH_DEPTH)


def _within(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
