"""The watcher on real cgroups: a scratch cgroup stands for the mount."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sources.cgroup_ids import path_by_listing, path_of
from agent.sources.cgroup_watch import Added, CgroupEvent, CgroupWatcher, Removed
from agent.sources.cgroups import ContainerFolder, Folder, PodFolder, RootFolder, find_cgroup2_mount, scan

CID = "cd" * 32


@pytest.fixture
def scratch() -> Iterator[Path]:
    top = find_cgroup2_mount() / f"dagwall-test-{uuid.uuid4().hex[:8]}"
    top.mkdir()
    yield top
    for folder, _, _ in os.walk(top, topdown=False):
        Path(folder).rmdir()


@pytest.fixture
def watcher(scratch: Path) -> Iterator[CgroupWatcher]:
    made = CgroupWatcher(scratch)
    yield made
    made.close()


def settled(watcher: CgroupWatcher) -> list[CgroupEvent]:
    """Events until 50 ms pass without one."""
    out: list[CgroupEvent] = []
    while events := watcher.read(0.05):
        out += events
    return out


def shown(events: list[CgroupEvent]) -> list[tuple[str, str]]:
    return [(type(event).__name__, event.folder.path) for event in events]


def test_pods_come_and_go(scratch: Path, watcher: CgroupWatcher) -> None:
    assert watcher.resync() == []
    uid = str(uuid.uuid4())
    pod = scratch / f"kubepods/burstable/pod{uid}"
    (pod / CID).mkdir(parents=True)
    events = settled(watcher)
    assert [type(event.folder) for event in events] == [RootFolder, PodFolder, ContainerFolder]
    assert all(isinstance(event, Added) for event in events)
    assert events[1].folder.cgroup_id == pod.stat().st_ino
    (pod / CID).rmdir()
    pod.rmdir()
    gone = settled(watcher)
    assert [type(event) for event in gone] == [Removed, Removed]
    assert [event.folder for event in gone] == [events[2].folder, events[1].folder]


def test_what_is_there_at_the_start_is_reported_once(scratch: Path, watcher: CgroupWatcher) -> None:
    uid = str(uuid.uuid4()).replace("-", "_")
    (scratch / f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{uid}.slice").mkdir(parents=True)
    (scratch / f"kubepods.slice/kubepods-pod{uid}.slice" / CID).mkdir(parents=True)
    first = watcher.resync()
    assert {event.folder for event in first} == set(scan(scratch))
    assert len(first) == 5
    assert watcher.resync() == []
    assert settled(watcher) == []


def test_a_folder_made_again_is_another_one(scratch: Path, watcher: CgroupWatcher) -> None:
    pod = scratch / f"kubepods/pod{uuid.uuid4()}"
    (pod / CID).mkdir(parents=True)
    before = watcher.resync()
    (pod / CID).rmdir()
    pod.rmdir()
    pod.mkdir()
    events = settled(watcher)
    assert {event.folder for event in events if isinstance(event, Removed)} == {e.folder for e in before[1:]}
    (added,) = [event.folder for event in events if isinstance(event, Added)]
    assert added.cgroup_id == pod.stat().st_ino
    assert added.cgroup_id not in {event.folder.cgroup_id for event in before}


def test_roots_and_strays_that_come_later(scratch: Path, watcher: CgroupWatcher) -> None:
    (scratch / "kubelet.slice").mkdir()
    (scratch / "system.slice").mkdir()
    watcher.resync()
    uid = str(uuid.uuid4()).replace("-", "_")
    (scratch / f"system.slice/kubepods-pod{uid}.slice:cri-containerd:{CID}").mkdir()
    (scratch / f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{uid}.slice").mkdir(parents=True)
    stray, root, pod = (event.folder for event in settled(watcher))
    assert isinstance(stray, ContainerFolder)
    assert stray.outside
    assert isinstance(root, RootFolder)
    assert isinstance(pod, PodFolder)
    assert pod.root == root.path


def test_an_overflow_lists_everything_again(scratch: Path, watcher: CgroupWatcher) -> None:
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    old = limit.read_text()
    try:
        limit.write_text("8")
        small = CgroupWatcher(scratch)
    finally:
        limit.write_text(old)
    (scratch / "kubepods").mkdir()
    assert shown(small.resync()) == [("Added", "/kubepods")]
    uids = [str(uuid.uuid4()) for _ in range(40)]
    for uid in uids:
        (scratch / f"kubepods/pod{uid}").mkdir()
    events = settled(small)
    assert small.lost()["folder_events"] == small.overflows > 0
    assert sorted(path for _, path in shown(events)) == sorted(f"/kubepods/pod{uid}" for uid in uids)
    for uid in uids:
        (scratch / f"kubepods/pod{uid}").rmdir()
    assert len(settled(small)) == 40
    assert list(small.known) == ["/kubepods"]
    small.close()


def test_a_storm_loses_nothing(scratch: Path, watcher: CgroupWatcher) -> None:
    (scratch / "kubepods").mkdir()
    watcher.resync()
    live: set[str] = set()
    for i in range(300):
        path = f"/kubepods/pod{uuid.uuid4()}"
        (scratch / path[1:] / CID).mkdir(parents=True)
        live.add(path)
        if i % 3 == 0:
            (scratch / path[1:] / CID).rmdir()
            (scratch / path[1:]).rmdir()
            live.discard(path)
        if i % 50 == 0:
            watcher.read()
    settled(watcher)
    expected = {"/kubepods"} | live | {f"{path}/{CID}" for path in live}
    assert set(watcher.known) == expected == {folder.path for folder in scan(scratch)}


def test_makers_at_work_while_events_are_read(scratch: Path, watcher: CgroupWatcher) -> None:
    """Same names made and removed again and again: what is known at the end is what is there."""
    (scratch / "kubepods").mkdir()
    watcher.resync()
    uids = [str(uuid.uuid4()) for _ in range(8)]

    def make(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(300):
            pod = scratch / f"kubepods/burstable/pod{uids[seed * 2 + choose.randrange(2)]}"
            if pod.exists():
                if (pod / CID).exists():
                    (pod / CID).rmdir()
                pod.rmdir()
            elif choose.random() < 0.8:
                pod.mkdir(parents=True)
                (pod / CID).mkdir()

    makers = [threading.Thread(target=make, args=(seed,)) for seed in range(4)]
    seen: dict[str, Folder] = {folder.path: folder for folder in watcher.known.values()}
    for maker in makers:
        maker.start()
    while any(maker.is_alive() for maker in makers):
        replay(seen, watcher.read(0.001))
    replay(seen, settled(watcher))
    there = {folder.path: folder for folder in scan(scratch)}
    assert watcher.known == there
    assert seen == there


def replay(seen: dict[str, Folder], events: list[CgroupEvent]) -> None:
    """What a reader of the events would believe: nothing is added twice, nothing unknown is removed."""
    for event in events:
        if isinstance(event, Added):
            assert event.folder.path not in seen
            seen[event.folder.path] = event.folder
        else:
            assert seen.pop(event.folder.path) == event.folder


def test_mkdir_to_event_takes_less_than_5_ms(scratch: Path, watcher: CgroupWatcher) -> None:
    (scratch / "kubepods").mkdir()
    watcher.resync()
    taken = []
    for _ in range(50):
        pod = scratch / f"kubepods/pod{uuid.uuid4()}"
        start = time.perf_counter()
        pod.mkdir()
        assert len(watcher.read(1.0)) == 1
        taken.append(time.perf_counter() - start)
    assert sorted(taken)[len(taken) // 2] < 0.005


def test_an_id_leads_to_its_path(scratch: Path) -> None:
    mount = find_cgroup2_mount()
    inode, path = scratch.stat().st_ino, f"/{scratch.name}"
    assert path_of(mount, inode) == path
    assert path_by_listing(mount, inode) == path
    assert path_of(mount, mount.stat().st_ino) == "/"
    gone = scratch / "x"
    gone.mkdir()
    inode = gone.stat().st_ino
    gone.rmdir()
    assert path_of(mount, inode) is None
    assert path_by_listing(mount, inode) is None
