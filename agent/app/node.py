"""The writing thread of one node: manifests, cgroup folders and kernel questions in; maps, contexts and views out."""

from __future__ import annotations

import logging
import os
import queue
import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.abi.structs import U32, U64
from agent.app.closer import Closer, Sweep, stalls
from agent.app.connections import Connections
from agent.app.drain import Drain, Snapshot, lost_evictions
from agent.app.folders import DEFAULT_LEVELS, Folders
from agent.app.health import Health
from agent.app.settings import pack_config
from agent.app.settler import Settler
from agent.app.state import StateFolder, change_of
from agent.app.told import HELD_BY_LSM, Observer, Told
from agent.compiler.changes import EVERYTHING, Changes
from agent.config import Config
from agent.flows.decode import RawEvent, decode_event
from agent.kernel.datapath import Datapath
from agent.log import event
from agent.model.identity import PodUid
from agent.model.settle import Settled, SettledBy
from agent.model.verdict import EndpointState, EventKind
from agent.sources.cgroup_ids import path_of
from agent.sources.cgroup_watch import Added, CgroupEvent, CgroupWatcher
from agent.sources.cgroups import ContainerFolder, RootFolder
from agent.sources.host import own_cgroup
from agent.sources.update import Source, Update
from agent.sync.writer import Outcome, Share, Writer

AGENT = PodUid("dagwall-agent")
HEARTBEAT_SECONDS = 1.0
HEALTH_SECONDS = 2.0
SCAN_SECONDS = 30.0
"""Between two full scans of the cgroup tree: for what no directory event has told."""


@dataclass(slots=True)
class Timers:
    """When what is due, on the monotonic clock."""

    heartbeat: float = 0.0
    health: float = 0.0
    scan: float = 0.0


class Node:
    """Built by agent.app.main; `run` is the thread. Everything it publishes is immutable."""

    def __init__(
        self,
        config: Config,
        *,
        datapath: Datapath,
        writer: Writer,
        source: Source,
        watcher: CgroupWatcher,
        drain: Drain,
        state: StateFolder,
        hz: int,
        known_here: bool,
        pins_were_gone: bool,
        observer: Observer,
        publish: Callable[[Node], None],
    ) -> None:
        self.config, self.datapath, self.writer, self.source = config, datapath, writer, source
        self.watcher, self.drain, self.hz = watcher, drain, hz
        self.connections = Connections(datapath.maps, watcher.paths_of)
        self.closer = Closer(self.connections)
        self.folders = Folders()
        self.health = Health(datapath, writer, self.folders, watcher.mount)
        self.settler = Settler(writer, config.log_folders, observer.pending, known_here, source.whole_truth)
        self._observer, self.pins_were_gone = observer, pins_were_gone
        self.attached_after_seconds = 0.0
        self.told = Told(config.node, HELD_BY_LSM if datapath.features.lsm_cgroup else frozenset())
        self.context = self.told.context(writer)
        self._state, self._publish = state, publish
        self._levels = DEFAULT_LEVELS
        self._updates: queue.SimpleQueue[tuple[float, Update]] = queue.SimpleQueue()
        self._evictions: queue.SimpleQueue[Counter[Share]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._timers = Timers()
        self._untold: Changes | None = None
        self._refused = Changes()
        self._too_big: tuple[str, ...] = ()
        self._swept = False

    # -- start

    def start(self, first: Update) -> None:
        """Fill the maps, then attach: the order of L5."""
        began = time.monotonic()
        self._write_config()
        for found in self.watcher.resync():
            self.folders.add(found.folder)
        own = own_cgroup(self.watcher.mount)
        if own:
            self.folders.pods[own] = AGENT
        self._report_objects(first)
        outcome = self.writer.start(first.snapshot, [(uid, cgroup) for cgroup, uid in self.folders.pods.items()])
        self.writer.evicted(lost_evictions(self.datapath.maps))
        self.settler.let_pass(AGENT, Settled(EndpointState.UNMANAGED, SettledBy.NOBODY))
        self.health.guarded(self.settler.settle_unknown)
        if not self.datapath.adopted:
            self.health.guarded(self.settler.let_pass_what_was_there)
        self.health.attach()
        self._after(outcome, EVERYTHING)
        self._tell(also=self.source.store.claims.keys())
        self.attached_after_seconds = time.monotonic() - began
        event("agent.enforcing", endpoints=len(self.writer.endpoints.by_uid), writes=outcome.writes)

    # -- the loop

    def run(self) -> None:
        """Until `stop`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.watcher.fileno(), selectors.EVENT_READ, self._on_folders)
            selector.register(self.datapath.events.fileno(), selectors.EVENT_READ, self._on_records)
            selector.register(self._wake, selectors.EVENT_READ, self._on_wake)
            while not self._stopping:
                ready = {key.data for key, _ in selector.select(HEARTBEAT_SECONDS / 2)}
                for answer in (self._on_folders, self._on_records, self._on_wake):
                    if answer in ready:
                        answer()
                self._on_time(time.monotonic())
                self._tell()
        self._save()

    def close(self) -> None:
        """Let go of everything; what is enforced stays."""
        self.watcher.close()
        self.source.close()
        self.datapath.close()
        os.close(self._wake)

    def stop(self) -> None:
        """From any thread or a signal."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def evicted(self, by_share: Counter[Share]) -> None:
        """The draining thread has taken these out of `flows`."""
        self._evictions.put(by_share)
        os.eventfd_write(self._wake, 1)

    def updated(self, read_at: float, update: Update) -> None:
        """From the source's thread; `read_at` on the monotonic clock."""
        self._updates.put((read_at, update))
        os.eventfd_write(self._wake, 1)

    def stopping(self) -> bool:
        return self._stopping

    def _take(self, read_at: float, update: Update) -> None:
        """`read_at`: when the source had it, on the monotonic clock."""
        self._report_objects(update)
        outcome = self.health.guarded(lambda: self.writer.update(update.snapshot, update.changes))
        took = time.monotonic() - read_at
        self._observer.policy_latency(took)
        self.health.guarded(self.settler.settle_unknown)
        self._after(outcome, update.changes)
        event(
            "snapshot.programmed", revision=update.snapshot.revision, writes=outcome.writes, bumped=outcome.bumped,
            refused=outcome.refused, seconds=round(took, 6),
        )  # fmt: skip

    def _on_folders(self) -> None:
        self._apply_all(self.watcher.read())

    def _apply_all(self, events: list[CgroupEvent]) -> None:
        if sum(self._apply(found) for found in events):
            self.health.guarded(self.settler.settle_unknown)
            self._after(Outcome(), Changes())

    def _apply(self, found: CgroupEvent) -> bool:
        """True where something other than a container came or went."""
        folder = found.folder
        if isinstance(found, Added):
            self.folders.add(folder)
            if isinstance(folder, RootFolder):
                self.health.guarded(self.health.attach)
            elif not folder.outside:
                self.health.guarded(lambda: self.writer.add_folder(folder.uid, folder.cgroup_id))
        else:
            if folder.cgroup_id in self.folders.pods:
                self.writer.remove_folder(folder.cgroup_id, time.monotonic())
            self.folders.remove(folder)
        if self.folders.levels() != self._levels:
            self._write_config()
        return not isinstance(folder, ContainerFolder)

    def _on_records(self) -> None:
        self._tell()
        for data in self.datapath.events.read():
            record = decode_event(data)
            if record.kind is EventKind.PENDING:
                self._answer(record)
                continue
            if stalls(record):
                self.closer.inbox.put(record)
            self.drain.inbox.put(record)

    def _answer(self, record: RawEvent) -> None:
        """The kernel has met a cgroup that it does not know: perhaps the folder's event is still on its way."""
        self._on_folders()
        known = (record.cgroup_id, *record.ancestors)
        if not any(cgroup in self.folders.pods for cgroup in known):
            self._apply_all(self.watcher.resync())
        if not any(cgroup in self.folders.pods for cgroup in known):
            path = path_of(self.watcher.mount, record.cgroup_id)
            event("cgroup.unknown", level=logging.WARNING, cgroup_id=record.cgroup_id, path=path or "gone")
        self.datapath.maps["pending"].delete(U64.pack(value=record.cgroup_id))

    def _on_wake(self) -> None:
        os.eventfd_read(self._wake)
        while not self._evictions.empty():
            self.writer.evicted(self._evictions.get())
        if not self._updates.empty():
            self._take(*self._waiting())

    def _waiting(self) -> tuple[float, Update]:
        """All updates that wait, as one: a pass for each would fall behind when pods come faster than passes."""
        read_at, update = self._updates.get()
        while not self._updates.empty():
            update = update.then(self._updates.get()[1])
        return read_at, update

    def _on_time(self, now: float) -> None:
        if now >= self._timers.heartbeat:
            self._timers.heartbeat = now + HEARTBEAT_SECONDS
            self._write_config()
            self.health.guarded(self.settler.settle_unknown)
            outcome = self.health.guarded(lambda: self.writer.expire(now))
            self.settler.forget(outcome.gone)
            if self.writer.endpoints.touched or self.settler.touched:
                self._after(outcome, Changes())
        if now >= self._timers.health:
            self._timers.health = now + HEALTH_SECONDS
            self.health.check()
            self.health.say("source", self.source.trouble())
            self.health.say("pending", self.settler.overdue())
            if "state" in self.health.problems:
                self._save()
            self._publish(self)
        if now >= self._timers.scan:
            self._timers.scan = now + SCAN_SECONDS
            self._apply_all(self.watcher.resync())

    # -- what follows

    def _after(self, outcome: Outcome, changes: Changes) -> None:
        """Others are told once for all that one turn of the loop has changed."""
        if outcome.questioned:
            self.closer.inbox.put(Sweep(outcome.questioned))
        too_big, self._too_big = self._too_big, tuple(map(str, self.writer.intake.errors()))
        for text in self._too_big:
            if text not in too_big:
                event("object.refused", level=logging.ERROR, problem=text)
        if outcome.refused:
            self.health.say("revision", f"revision refused: {outcome.refused}")
            self._refused |= changes
            return
        if changes != Changes():
            self.health.say("revision", "")
            changes, self._refused = changes | self._refused, Changes()
        self._untold = changes if self._untold is None else self._untold | changes

    def _tell(self, also: Iterable[PodUid] = ()) -> None:
        """Before records that may speak of what is new, and before the next wait. `also`: whose claims to save."""
        if self._untold is None:
            return
        changes, self._untold = self._untold, None
        touched = self.writer.endpoints.take_touched() | self.settler.take_touched() | changes.pods
        self.told.update(touched, self.writer, self.settler.settled)
        self.context = self.told.context(self.writer)
        self.drain.inbox.put(Snapshot(self.context, self.told.fresh, changes))
        for row in self.told.contradicting:
            self._observer.contradiction(row)
        self._publish(self)
        self._save(touched.union(also))

    def _write_config(self) -> None:
        """Settings of the programs, and the heartbeat."""
        self._levels = self.folders.levels()
        value = pack_config(self.config, self.hz, self._levels, time.monotonic_ns())
        self.datapath.maps["config"].put(U32.pack(value=0), value)

    def _report_objects(self, update: Update) -> None:
        for problem in update.problems:
            event("object.invalid", level=logging.ERROR, problem=str(problem))

    def _save(self, uids: Iterable[PodUid] = ()) -> None:
        """Numbers, and the claims of these pods, to disk; a disk that takes nothing is tried again with the next."""
        complete = self.settler.known_here or self.writer.cluster.complete
        if self.writer.cluster.complete and not self._swept:  # claims of pods that went while no agent lived
            uids, self._swept = {*uids, *self.source.store.claims}, True
        change = change_of(self.writer, self.source.store.claims, uids, complete=complete)
        self.health.saved(lambda: self._state.keep(change))
