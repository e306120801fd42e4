"""The writing thread of one node: manifests, cgroup folders and kernel questions in; maps, contexts and views out."""

from __future__ import annotations

import logging
import os
import queue
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.abi.structs import U32, U64
from agent.config import Config
from agent.errors import KernelError
from agent.flows.decode import RawEvent, decode_event
from agent.kernel.datapath import Datapath
from agent.log import event
from agent.model.changes import EVERYTHING, Changes
from agent.model.classify import Classified, ClassifiedBy
from agent.model.identity import PodUid
from agent.model.verdict import EndpointState, EventKind
from agent.node.classifier import Classifier
from agent.node.config_map import pack_config
from agent.node.connections import Connections
from agent.node.directory import HELD_BY_LSM, EndpointDirectory, Observer
from agent.node.flow_drain import FlowDrain, Snapshot, lost_evictions
from agent.node.folders import DEFAULT_LEVELS, Folders
from agent.node.health import Health
from agent.node.socket_closer import SocketCloser, Sweep, stalled, stalls
from agent.node.state import StateFolder, change_of
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
BLIND_SCAN_SECONDS = 2.0
"""The same where the kernel gives no events of some folders."""
SEARCH_SHARE = 20
"""A search for a cgroup that the kernel asks about follows the last one after so many times what that took."""
ASKED_NS = 5_000_000_000
"""When an entry of `pending` goes: the kernel asks again after a second while packets come."""


@dataclass(slots=True)
class Timers:
    """When what is due, on the monotonic clock."""

    heartbeat: float = 0.0
    health: float = 0.0
    scan: float = 0.0
    search: float = 0.0


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
        drain: FlowDrain,
        state: StateFolder,
        hz: int,
        known_here: bool,
        pins_were_gone: bool,
        observer: Observer,
        publish: Callable[[Node], None],
    ) -> None:
        self.config, self.datapath, self.writer, self.source = config, datapath, writer, source
        self.watcher, self.drain, self.hz = watcher, drain, hz
        self.connections = Connections(datapath.maps, watcher.paths_of, datapath.kernel_only["sockets"], writer.lock)
        self.closer = SocketCloser(self.connections)
        self.folders = Folders()
        self.health = Health(datapath, writer, self.folders, watcher.mount)
        self.classifier = Classifier(writer, config.log_folders, observer.pending, known_here, source.whole_truth)
        self._observer, self.pins_were_gone = observer, pins_were_gone
        self.attached_after_seconds = 0.0
        self.directory = EndpointDirectory(config.node, HELD_BY_LSM if datapath.features.lsm_cgroup else frozenset())
        self.context = self.directory.context(writer)
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
        self._swept = self._enforcing = False
        self._lacking: tuple[str, ...] = ()
        self._unknown: dict[int, RawEvent] = {}  # by cgroup id: what the kernel asked about and nobody knows yet

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
        self.classifier.let_pass(AGENT, Classified(EndpointState.UNMANAGED, ClassifiedBy.NOBODY))
        self.health.guarded(self.classifier.classify_unknown)
        if not self.datapath.adopted:
            self.health.guarded(self.classifier.let_pass_what_was_there)
        self.health.attach()
        self._after(outcome, EVERYTHING)
        self._tell(also=self.source.store.claims.keys())
        self.attached_after_seconds = time.monotonic() - began
        self._say_enforcing()

    def _say_enforcing(self) -> None:
        """Once, as soon as a program is on a root."""
        if self._enforcing or not any(each.ours and each.cgroup_id for each in self.datapath.attached()):
            return
        self._enforcing = True
        event("agent.enforcing", endpoints=len(self.writer.endpoints.by_uid), roots=len(self.folders.roots))

    # -- the loop

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping:
            ready = self._wait()
            for fileno, answer in self._inputs():
                if fileno in ready:
                    answer()
            self._on_time(time.monotonic())
            self._sweep()
            self._tell()
        self._save()

    def _inputs(self) -> list[tuple[int, Callable[[], None]]]:
        """What the thread waits for, in the order in which it is taken."""
        found = [(self.watcher.fileno(), self._on_folders)] if self.watcher.fileno() >= 0 else []
        return [*found, (self.datapath.events.fileno(), self._on_records), (self._wake, self._on_wake)]

    def _wait(self) -> set[int]:
        """Descriptors that are ready. By poll(2), because epoll's watches are bounded for each uid, as inotify's."""
        poll = select.poll()
        for fileno, _ in self._inputs():
            poll.register(fileno, select.POLLIN)
        seconds = HEARTBEAT_SECONDS / 2
        if self._unknown:
            seconds = min(seconds, max(0.0, self._timers.search - time.monotonic()))
        return {fileno for fileno, _ in poll.poll(seconds * 1000)}

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
        self.health.guarded(self.classifier.classify_unknown)
        self._after(outcome, update.changes)
        event(
            "snapshot.programmed", revision=update.snapshot.revision, writes=outcome.writes, bumped=outcome.bumped,
            refused=outcome.refused, seconds=round(took, 6),
        )  # fmt: skip

    def forgotten(self) -> tuple[str, ...]:
        """What of the state folder could not be read at the start."""
        return self._state.damage()

    def without_events(self) -> tuple[str, ...]:
        """What is found by looking only, and so later."""
        pods, files = self.watcher.trouble, self.source.without_events()
        return (*([f"pods' folders: {pods}"] if pods else []), *([f"manifests: {files}"] if files else []))

    def _on_folders(self) -> None:
        self._look(self.watcher.read)

    def _look(self, look: Callable[[], list[CgroupEvent]]) -> None:
        """A tree that cannot be read now is not ready; what was read of it comes with the next look."""
        try:
            events = look()
        except KernelError as exc:
            self.health.say("folders", str(exc))
            return
        self.health.say("folders", "")
        if sum(self._apply(found) for found in events):
            self.health.guarded(self.classifier.classify_unknown)
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
        asked = False
        for data in self.datapath.events.read():
            record = decode_event(data)
            if record.kind is EventKind.PENDING:
                self._unknown[record.cgroup_id] = record
                asked = True
                continue
            if stalls(record):
                self._end(record)
            self.drain.offer(record)
        if asked:
            self._answer()

    def _end(self, record: RawEvent) -> None:
        """A socket may be in any folder below a container's: the slot names the endpoint."""
        folders = self.writer.endpoints.a_folder_of_each([record.slot])
        self.closer.inbox.put(stalled(record, folders[0] if folders else record.cgroup_id))

    def _answer(self) -> None:
        """The kernel has met cgroups that it does not know: perhaps the folders' events are still on their way."""
        self._on_folders()
        self._drop_known()
        if not self._unknown or time.monotonic() < self._timers.search:
            return
        began = time.monotonic()
        self._look(self.watcher.resync)
        self._timers.search = time.monotonic() + SEARCH_SHARE * (time.monotonic() - began)
        self._drop_known()
        for cgroup in list(self._unknown)[:10]:
            path = path_of(self.watcher.mount, cgroup)
            event("cgroup.unknown", level=logging.WARNING, cgroup_id=cgroup, path=path or "gone")
        self._unknown = {}

    def _drop_known(self) -> None:
        """Those that belong to a pod: it is classified, or pending for a reason that the folders do not know."""
        pods = self.folders.pods
        self._unknown = {
            cgroup: record
            for cgroup, record in self._unknown.items()
            if not any(each in pods for each in (cgroup, *record.ancestors))
        }

    def _forget_asked(self) -> None:
        """Entries of `pending` that are old: a pod with thousands of cgroups asks once a second for each."""
        pending, now = self.datapath.maps["pending"], time.monotonic_ns()
        pending.delete_all(key for key, at in pending.items() if now - int(U64.unpack(at)["value"]) > ASKED_NS)

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
            self.health.guarded(self.classifier.classify_unknown)
            outcome = self.health.guarded(lambda: self.writer.expire(now))
            self.classifier.forget(outcome.gone)
            if self.writer.endpoints.touched or self.classifier.touched:
                self._after(outcome, Changes())
        if now >= self._timers.health:
            self._timers.health = now + HEALTH_SECONDS
            self.health.check()
            self._say_enforcing()
            self.health.guarded(self._forget_asked)
            self.health.say("source", self.source.trouble())
            self._say_events()
            self.health.say("pending", self.classifier.overdue())
            if "state" in self.health.problems:
                self._save()
            self._publish(self)
        if now >= self._timers.scan:
            self._look(self.watcher.resync)
            self._timers.scan = now + (BLIND_SCAN_SECONDS if self.watcher.trouble else SCAN_SECONDS)
        if self._unknown:
            self._answer()

    def _say_events(self) -> None:
        """A convenience that is lacking is no reason not to be ready, and said when it goes and when it is back."""
        lacking, self._lacking = self._lacking, self.without_events()
        if self._lacking and not lacking:
            event("folders.without_events", level=logging.ERROR, why="; ".join(self._lacking))
        elif lacking and not self._lacking:
            event("folders.events_are_back")

    # -- what follows

    def _after(self, outcome: Outcome, changes: Changes) -> None:
        """Others are told once for all that one turn of the loop has changed."""
        self._sweep()
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

    def _sweep(self) -> None:
        """Whoever called verdicts into question, a repair too: what is open and denied by now ends (P10)."""
        if questioned := self.writer.take_questioned():
            self.closer.inbox.put(Sweep(questioned))

    def _tell(self, also: Iterable[PodUid] = ()) -> None:
        """Before records that may speak of what is new, and before the next wait. `also`: whose claims to save."""
        if self._untold is None:
            return
        changes, self._untold = self._untold, None
        touched = self.writer.endpoints.take_touched() | self.classifier.take_touched() | changes.pods
        self.directory.update(touched, self.writer, self.classifier.classified)
        self.context = self.directory.context(self.writer)
        self.drain.inbox.put(Snapshot(self.context, self.directory.fresh, changes))
        for row in self.directory.contradicting:
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
        complete = self.classifier.known_here or self.writer.cluster.complete
        if self.writer.cluster.complete and not self._swept:  # claims of pods that went while no agent lived
            uids, self._swept = {*uids, *self.source.store.claims}, True
        change = change_of(self.writer, self.source.store.claims, uids, complete=complete)
        self.health.saved(lambda: self._state.keep(change))
