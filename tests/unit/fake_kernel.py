"""A kernel of dictionaries, a cgroup tree, a source and a clock, for the threads of the node: no root needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.abi.structs import MAPS
from agent.errors import KernelError, MapError
from agent.kernel.datapath import Attachment
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster, Settings
from agent.model.validated import ValidatedPolicy
from agent.sources.cgroup_watch import Added, CgroupEvent, Removed
from agent.sources.cgroups import Folder
from agent.sources.update import Update

Item = tuple[bytes, bytes]
OURS, THEIRS = 7, 8
"""Numbers of programs."""


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeMap:
    """A kernel map, of one processor where it is per CPU. `refuses`: writes fail."""

    name: str
    refuses: bool = False
    content: dict[bytes, bytes] = field(default_factory=dict)
    writes: int = 0

    @property
    def entries(self) -> int:
        return MAPS[self.name].entries

    def get(self, key: bytes) -> bytes | None:
        return self.content.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        if self.refuses:
            raise MapError(f"map {self.name}: update: no room")
        self.content[key] = value
        self.writes += 1

    def put_all(self, items: Iterable[Item]) -> None:
        for key, value in items:
            self.put(key, value)

    def delete(self, key: bytes) -> bool:
        return self.content.pop(key, None) is not None

    def delete_all(self, keys: Iterable[bytes]) -> None:
        for key in list(keys):
            self.delete(key)

    def items(self) -> list[Item]:
        return list(self.content.items())

    def keys(self) -> list[bytes]:
        return list(self.content)

    def wait_for_readers(self) -> None:
        """Nobody reads."""


@dataclass
class FakeEvents:
    """The ring buffer."""

    records: list[bytes] = field(default_factory=list)
    descriptor: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))

    def fileno(self) -> int:
        return self.descriptor

    def read(self) -> Iterator[bytes]:
        while self.records:
            yield self.records.pop(0)


@dataclass
class FakeKernel:
    """Maps, and hooks on folders. `foreign`: hooks that hold another program; `refuses`: nothing can be attached."""

    adopted: bool = False
    maps: dict[str, FakeMap] = field(default_factory=lambda: {name: FakeMap(name) for name in MAPS})
    events: FakeEvents = field(default_factory=FakeEvents)
    names: tuple[str, ...] = ("egress", "connect4")
    roots: dict[int, set[str]] = field(default_factory=dict)  # by cgroup id: hooks of ours
    foreign: set[tuple[int, str]] = field(default_factory=set)
    refuses: bool = False
    pinned: bool = True
    attachments: int = 0

    def attach(self, roots: Iterable[Path]) -> None:
        if self.refuses:
            raise KernelError("attach: no")
        self.attachments += 1
        self.foreign.clear()
        for root in roots:
            self.roots[root.stat().st_ino] = set(self.names)

    def attached(self) -> list[Attachment]:
        ours = [Attachment(hook, root, OURS, ours=True) for root, hooks in self.roots.items() for hook in hooks]
        return ours + [Attachment(hook, root, THEIRS, ours=False) for root, hook in self.foreign]

    def replace(self, root: int, hook: str) -> None:
        """Somebody puts another program into our link."""
        self.roots[root].discard(hook)
        self.foreign.add((root, hook))

    def hooks(self) -> list[str]:
        return list(self.names)

    def pins_are_there(self) -> bool:
        return self.pinned

    def pin_again(self) -> None:
        self.pinned = True

    def close(self) -> None:
        os.close(self.events.descriptor)


@dataclass
class FakeWatcher:
    """Cgroup folders: `add` and `remove` have events, `hide` makes one that only a search finds."""

    trouble: str = ""
    broken: str = ""
    searches: int = 0
    _told: list[CgroupEvent] = field(default_factory=list)
    _hidden: list[CgroupEvent] = field(default_factory=list)

    def fileno(self) -> int:
        return -1

    def add(self, folder: Folder) -> None:
        self._told.append(Added(folder))

    def remove(self, folder: Folder) -> None:
        self._told.append(Removed(folder))

    def hide(self, folder: Folder) -> None:
        self._hidden.append(Added(folder))

    def read(self) -> list[CgroupEvent]:
        if self.broken:
            raise KernelError(self.broken)
        found, self._told = self._told, []
        return found

    def resync(self) -> list[CgroupEvent]:
        self.searches += 1
        found = self.read() + self._hidden
        self._hidden = []
        return found

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class FakeSource:
    """A source whose updates are queued by tests: for `read`, and for `rescan`."""

    name: str = "fake"
    whole_truth: bool = False
    snapshot: Cluster = field(default_factory=Cluster)
    news: list[Update] = field(default_factory=list)
    found: list[Update] = field(default_factory=list)
    judged: tuple[ValidatedPolicy, ...] = ()
    stale: float = 0.0
    why: str = ""

    def start(self) -> Update:
        return Update(self.snapshot, EVERYTHING, ())

    def read(self, timeout_seconds: float = 0.0) -> Update | None:  # noqa: ARG002  as the real ones
        return self.news.pop(0) if self.news else None

    def rescan(self) -> Update | None:
        return self.found.pop(0) if self.found else None

    def configure(self, change: Callable[[Settings], Settings]) -> Update | None:
        settings = change(self.snapshot.settings)
        if settings == self.snapshot.settings:
            return None
        self.snapshot = Cluster(settings=settings, revision=self.snapshot.revision + 1)
        return Update(self.snapshot, Changes(everything_else=True), ())

    def judgements(self) -> tuple[ValidatedPolicy, ...]:
        return self.judged

    def stale_seconds(self) -> float:
        return self.stale

    def trouble(self) -> str:
        return self.why

    def without_events(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing is open."""
