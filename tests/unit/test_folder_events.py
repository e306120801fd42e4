"""Without inotify's watches or instances everything is still found, later, and that is said."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from inotify_simple import Event

from agent.sources.cgroup_watch import CgroupWatcher
from agent.sources.files import FilesSource
from agent.sources.folder_events import FolderEvents
from agent.sources.store import Store

UID = "8a3c0d1e-1111-4222-8333-444455556666"


@dataclass
class Kernel:
    """As many watches as it has, in instances that it gives or not."""

    watches: int = 0
    instances: bool = True

    def open(self) -> Kernel:
        if not self.instances:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self

    def fileno(self) -> int:
        return 99

    def add_watch(self, path: str, mask: int) -> int:
        assert mask
        if not self.watches:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.watches -= 1
        return os.stat(path).st_ino

    def read(self, timeout: int) -> list[Event]:
        assert timeout >= 0
        return []

    def close(self) -> None:
        """Nothing is open."""


def tree(folder: Path) -> Path:
    (folder / f"kubepods/burstable/pod{UID}").mkdir(parents=True)
    return folder


def test_a_watcher_without_watches_finds_everything_by_looking(tmp_path: Path) -> None:
    kernel = Kernel(watches=1)
    watcher = CgroupWatcher(tree(tmp_path), events=FolderEvents(kernel.open))
    assert [e.folder.path for e in watcher.resync()] == ["/kubepods", f"/kubepods/burstable/pod{UID}"]
    assert watcher.trouble == "no inotify watch is left for 3 folders (fs.inotify.max_user_watches)"
    (tmp_path / f"kubepods/burstable/pod{UID}").rmdir()
    assert watcher.read() == []
    assert [e.folder.path for e in watcher.resync()] == [f"/kubepods/burstable/pod{UID}"]
    kernel.watches = 100
    assert watcher.resync() == []
    assert watcher.trouble == ""


def test_a_watcher_without_an_instance_gets_one_as_soon_as_there_is_one(tmp_path: Path) -> None:
    kernel = Kernel(watches=100, instances=False)
    watcher = CgroupWatcher(tree(tmp_path), events=FolderEvents(kernel.open))
    assert watcher.fileno() == -1
    assert len(watcher.resync()) == 2
    assert "no inotify instance is left" in watcher.trouble
    kernel.instances = True
    assert watcher.resync() == []
    assert (watcher.fileno(), watcher.trouble) == (99, "")


@pytest.mark.parametrize("kernel", [Kernel(instances=False), Kernel(watches=0)])
def test_a_folder_of_manifests_without_events_is_read_all_the_same(tmp_path: Path, kernel: Kernel) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")
    source = FilesSource(tmp_path, Store(), events=FolderEvents(kernel.open))
    first = source.start()
    assert (list(first.snapshot.namespaces), first.problems) == (["a"], ())
    assert source.without_events()
    (tmp_path / "b.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n")
    later = source.read(0.01)
    assert later is not None
    assert sorted(later.snapshot.namespaces) == ["a", "b"]


def test_what_was_found_before_a_folder_could_not_be_read_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that fails half-way (no descriptor is left) must not lose what it has seen."""
    watcher, real, calls = CgroupWatcher(tree(tmp_path)), os.scandir, []

    def scandir(path: str) -> object:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(Exception, match="Too many open files"):
        watcher.resync()
    monkeypatch.undo()
    assert [e.folder.path for e in watcher.resync()] == ["/kubepods", f"/kubepods/burstable/pod{UID}"]
