"""Source `files`: a directory of Kubernetes manifests, watched. One machine, the demo and the tests run on it.

Edits in place, editors that rename, and the `..data` links of ConfigMap volumes all end in one look at the whole
directory after 50 ms of quiet: a listing costs little, and what is missed by an event is found by the next.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from inotify_simple import flags

from agent.errors import InvalidObject
from agent.log import event
from agent.model.changes import Changes
from agent.model.cluster import Settings
from agent.model.validated import ValidatedPolicy
from agent.sources.folder_events import FolderEvents
from agent.sources.manifest_set import ManifestSet, Unreadable
from agent.sources.manifests import MAX_FILE_BYTES
from agent.sources.store import TABLES, Store
from agent.sources.update import Problem, Update

QUIET_SECONDS = 0.05
MAX_ROUNDS = 5
"""A directory that never gets quiet is read after this many rounds all the same."""

_SUFFIXES = (".yaml", ".yml", ".json")
_MASK = (
    flags.CLOSE_WRITE | flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.ATTRIB
    | flags.DELETE_SELF | flags.MOVE_SELF
)  # fmt: skip
_Signature = tuple[int, int, int, int]


@dataclass(slots=True)
class FilesSource:
    """Manifests below `directory` go into `store`; `manifests` decides what is in force."""

    directory: Path
    store: Store
    manifests: ManifestSet = field(default_factory=ManifestSet)
    problems: tuple[Problem, ...] = ()
    name: str = "files"
    whole_truth: bool = True
    events: FolderEvents = field(default_factory=FolderEvents)
    _folders: dict[int, str] = field(default_factory=dict)  # watch descriptor -> path below `directory`
    _signatures: dict[str, _Signature] = field(default_factory=dict)
    _skipped: frozenset[str] = frozenset()
    _faults: tuple[Problem, ...] = ()  # folders that cannot be listed
    _still: bool = True  # no name has gone during the last walk

    def fileno(self) -> int:
        """For poll(): readable when `read` has something to do; -1 while there are no events at all."""
        return self.events.fileno()

    def without_events(self) -> str:
        """Why changes are found by looking again only; "" while there are events of all folders."""
        return self.events.trouble

    def judgements(self) -> tuple[ValidatedPolicy, ...]:
        """None: files have no status."""
        return ()

    def stale_seconds(self) -> float:
        """0: what is there can be read, or is a problem of its own."""
        return 0.0

    def trouble(self) -> str:
        """ "": the same."""
        return ""

    def close(self) -> None:
        self.events.close()

    def start(self) -> Update:
        """Read everything there is; the snapshot is complete from then on."""
        if not self.directory.is_dir():
            raise InvalidObject(str(self.directory), "", "is no directory")
        self._list(frozenset())
        return self._publish()

    def read(self, timeout_seconds: float = 0.0) -> Update | None:
        """Wait for an event up to `timeout_seconds`, then for quiet; None if nothing changed. Where a folder has no
        events, it is looked at again each time."""
        events = self.events.read(timeout_seconds)
        if not events:
            return self.rescan() if self.events.trouble else None
        for _ in range(MAX_ROUNDS):
            more = self.events.read(QUIET_SECONDS)
            if not more:
                break
            events += more
        named = {f"{self._folders[event.wd]}{event.name}" for event in events if event.wd in self._folders}
        return self.rescan(frozenset(named))

    def rescan(self, named: frozenset[str] = frozenset()) -> Update | None:
        """Look at the directory again. Files in `named` are read even if they look as before.

        Call it from time to time as well: no event comes for a link's target in another place, or of a directory that
        was away and is back.
        """
        revision, problems = self.store.snapshot.revision, self.problems
        if not self._list(named | self.manifests.may_fit()):
            return None
        update = self._publish()
        same = self.store.snapshot.revision == revision and update.problems == problems
        return None if same else update

    def configure(self, change: Callable[[Settings], Settings]) -> Update | None:
        changes = self.store.configure(change(self.store.snapshot.settings))
        return Update(self.store.snapshot, changes, self.problems) if changes != Changes() else None

    def _publish(self) -> Update:
        items, problems = self.manifests.current()
        for text in set(self.manifests.skipped()) - self._skipped:
            event("object.skipped", what=text)
        self._skipped = frozenset(self.manifests.skipped())
        self.problems = self._faults + problems
        changes = self.store.replace_all(items, tables=TABLES, complete=True)
        return Update(self.store.snapshot, changes, self.problems)

    def _list(self, named: frozenset[str]) -> bool:
        """Bring `manifests` up to date with the directory; whether anything was to be done.

        A file that is renamed while the directory is walked is met under neither name: what seems to be gone is gone
        when a second walk finds the same, and neither met a name that was gone when it was looked at. Of a directory
        that never keeps still nothing is gone.
        """
        for _ in range(MAX_ROUNDS):
            files, unreadable = self._walk()
            changed = [path for path in sorted(files) if path in named or self._signatures.get(path) != files[path]]
            contents = {path: self._content(path) for path in changed}
            away = tuple(unreadable)
            gone = [path for path in self._signatures if path not in files and not path.startswith(away)]
            still = self._still and None not in contents.values()
            if not gone or (still and self._walk()[0].keys() == files.keys() and self._still):
                break
        else:
            gone = []
        faults = tuple(
            Problem(f, 0, 0, InvalidObject(why, "", "what was read stays")) for f, why in unreadable.items()
        )
        busy = bool(changed or gone or faults != self._faults)
        for path, content in contents.items():
            if content is not None:
                self.manifests.put(path, content)
                self._signatures[path] = files[path]
        for path in gone:
            self.manifests.remove(path)
            del self._signatures[path]
        self._faults = faults
        return busy

    def _walk(self) -> tuple[dict[str, _Signature], dict[str, str]]:
        """Manifest files below the directory with their signatures; folders that cannot be listed, with reasons."""
        files: dict[str, _Signature] = {}
        unreadable: dict[str, str] = {}
        seen: set[tuple[int, int]] = set()
        self.events.unwatched.clear()
        self._still = True
        pending = [""]
        while pending:
            folder = pending.pop()
            try:
                top = os.stat(self.directory / folder)
                if (top.st_dev, top.st_ino) in seen:
                    continue  # a link that leads back
                seen.add((top.st_dev, top.st_ino))
                self._watch(folder)
                for path, status in self._entries(folder):
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(f"{path}/")
                    elif path.lower().endswith(_SUFFIXES):
                        files[path] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                    elif any(known.startswith(f"{path}/") for known in self._signatures):
                        unreadable[f"{path}/"] = f"cannot list {self.directory / path}: it is no folder any more"
            except OSError as exc:
                if folder == "" or not isinstance(exc, FileNotFoundError):
                    unreadable[folder] = f"cannot list {self.directory / folder}: {exc.strerror}"
        return files, unreadable

    def _entries(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """What is in a folder, links followed; hidden names are editors' and ConfigMap volumes' own.

        A name that is there and leads nowhere (a link without its target, a loop) stands for itself: only a name that
        is gone is gone.
        """
        with os.scandir(self.directory / folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        for name in names:
            path = self.directory / folder / name
            try:
                status = os.stat(path)
            except OSError:
                try:
                    status = os.lstat(path)
                except OSError:  # gone since
                    self._still = False
                    continue
            yield f"{folder}{name}", status

    def _watch(self, folder: str) -> None:
        wd = self.events.watch(str(self.directory / folder), _MASK | flags.ONLYDIR)
        if wd is not None:
            self._folders[wd] = folder

    def _content(self, path: str) -> bytes | Unreadable | None:
        """None where it has gone since the walk."""
        try:
            fd = os.open(self.directory / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return Unreadable("cannot read: it is no regular file")
                return file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            there = os.path.lexists(self.directory / path)
            return Unreadable("cannot read: the link leads nowhere") if there else None
        except OSError as exc:
            return Unreadable(f"cannot read: {exc.strerror}")
