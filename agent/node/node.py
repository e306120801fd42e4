"""The writing thread of one node: updates, cgroup folders and questions of the kernel in; maps and reports out."""

from __future__ import annotations

import logging
import select
from collections.abc import Callable
from dataclasses import dataclass

from agent.abi.structs import U32
from agent.errors import KernelError
from agent.flows.decode import RawEvent, decode_record
from agent.log import event
from agent.model.changes import EVERYTHING, Changes
from agent.model.classify import Classified, ClassifiedBy
from agent.model.identity import PodUid
from agent.model.node_state import Topic
from agent.model.verdict import EndpointState, EventKind
from agent.node.config_map import pack_config
from agent.node.flow_drain import lost_evictions
from agent.node.folders import DEFAULT_LEVELS
from agent.node.heartbeat import Heartbeat
from agent.node.inbox import Posted
from agent.node.parts import Parts
from agent.node.publisher import Publisher
from agent.node.socket_closer import stalled, stalls
from agent.node.unknown import forget_asked
from agent.sources.cgroup_watch import Added, CgroupEvent
from agent.sources.cgroups import ContainerFolder, RootFolder
from agent.sources.update import Update
from agent.sync.writer import Outcome

AGENT = PodUid("dagwall-agent")
HEARTBEAT_SECONDS = 1.0
HEALTH_SECONDS = 2.0
SCAN_SECONDS = 30.0
"""Between two full scans of the cgroup tree: for what no directory event has told."""
BLIND_SCAN_SECONDS = 2.0
"""The same where the kernel gives no events of some folders."""


@dataclass(slots=True)
class Timers:
    """When what is due, on the monotonic clock."""

    heartbeat: float = 0.0
    health: float = 0.0
    scan: float = 0.0


class Node:
    """`run` is the thread. Everything that it publishes is immutable."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.writer, self.health, self.directory = parts.writer, parts.health, parts.directory
        self.folders, self.classifier, self._clock = parts.folders, parts.classifier, parts.clock
        self._levels = DEFAULT_LEVELS
        self._timers = Timers()
        self.heartbeat = Heartbeat(self._write_config, parts.clock)
        self.publisher = Publisher(parts)
        self._lacking: tuple[str, ...] = ()
        self._enforcing = False  # a program has been on a root

    # -- start

    def start(self, first: Update) -> None:
        """Fill the maps, then attach: the order of L5."""
        parts = self.parts
        self.heartbeat.beat()
        for found in parts.watcher.resync():
            self.folders.add(found.folder)
        self._write_levels()
        if parts.own_cgroup:
            self.folders.pods[parts.own_cgroup] = AGENT
        self.publisher.learn(first)
        outcome = self.writer.start(first.snapshot, [(uid, cgroup) for cgroup, uid in self.folders.pods.items()])
        self.writer.evicted(lost_evictions(parts.kernel.maps))
        self.classifier.let_pass(AGENT, Classified(EndpointState.UNMANAGED, ClassifiedBy.NOBODY))
        self.health.guarded(self.classifier.classify_unknown)
        if not parts.kernel.adopted:
            self.health.guarded(self.classifier.let_pass_what_was_there)
        self.health.attach()
        self.publisher.after(outcome, EVERYTHING)
        self.publisher.publish_changes()
        self._log_enforcing()

    # -- the loop

    def run(self) -> None:
        """Until the inbox is told to stop."""
        while not self.parts.inbox.stopping():
            self.turn(self._wait())
        self.publisher.save()

    def turn(self, ready: set[int]) -> None:
        """Whatever these descriptors have, and what is due."""
        self.heartbeat.moves()
        for fileno, answer in self._inputs():
            if fileno in ready:
                answer()
        self._on_time(self._clock())
        self.publisher.sweep()
        self.publisher.publish_changes()

    def _inputs(self) -> list[tuple[int, Callable[[], None]]]:
        """What the thread waits for, in the order in which it is taken."""
        parts = self.parts
        found = [(parts.watcher.fileno(), self._on_folders)] if parts.watcher.fileno() >= 0 else []
        return [*found, (parts.kernel.events.fileno(), self._on_records), (parts.inbox.fileno(), self._on_inbox)]

    def _wait(self) -> set[int]:
        """Descriptors that are ready. By poll(2), because epoll's watches are bounded for each uid, as inotify's."""
        poll = select.poll()
        for fileno, _ in self._inputs():
            poll.register(fileno, select.POLLIN)
        seconds = HEARTBEAT_SECONDS / 2
        if self.parts.unknown:
            seconds = min(seconds, max(0.0, self.parts.unknown.due - self._clock()))
        return {fileno for fileno, _ in poll.poll(seconds * 1000)}

    def close(self) -> None:
        """Let go of everything; what is enforced stays."""
        self.heartbeat.stop()
        self.parts.watcher.close()
        self.parts.source.close()
        self.parts.kernel.close()
        self.parts.inbox.close()

    # -- inputs

    def _on_inbox(self) -> None:
        evictions, posted = self.parts.inbox.take()
        if evictions:
            self.health.guarded(lambda: self.writer.evicted(evictions))
        if posted is not None:
            self._take(posted)

    def _take(self, posted: Posted) -> None:
        read_at, update = posted
        self.publisher.learn(update)
        outcome = self.health.guarded(lambda: self.writer.update(update.snapshot, update.changes))
        took = self._clock() - read_at
        self.parts.reporter.samples.policy_seconds.append(took)
        self.health.guarded(self.classifier.classify_unknown)
        self.publisher.after(outcome, update.changes)
        event(
            "snapshot.programmed", revision=update.snapshot.revision, writes=outcome.writes, bumped=outcome.bumped,
            refused=outcome.refused, seconds=round(took, 6),
        )  # fmt: skip

    def _on_folders(self) -> None:
        self._look(self.parts.watcher.read)

    def _look(self, look: Callable[[], list[CgroupEvent]]) -> None:
        """While the tree cannot be read the node is not ready; what was read of it comes with the next look."""
        try:
            events = look()
        except KernelError as exc:
            self.health.note(Topic.FOLDERS, str(exc))
            return
        self.health.note(Topic.FOLDERS, "")
        if sum(self._apply(found) for found in events):
            self.health.guarded(self.classifier.classify_unknown)
            self.publisher.after(Outcome(), Changes())

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
                self.writer.remove_folder(folder.cgroup_id, self._clock())
            self.folders.remove(folder)
        self._write_levels()
        return not isinstance(folder, ContainerFolder)

    def _on_records(self) -> None:
        self.publisher.publish_changes()  # the records may speak of what is new
        asked = False
        for data in self.parts.kernel.events.read():
            asked |= self.parts.drain.broken.guard(lambda: self._on_record(data), False)  # noqa: B023, FBT003  at once
        if asked:
            self._answer()

    def _on_record(self, data: bytes) -> bool:
        """Does the kernel ask whose a cgroup is?"""
        record = decode_record(data)
        if isinstance(record, RawEvent) and record.kind is EventKind.PENDING:
            self.parts.unknown.ask(record)
            return True
        if isinstance(record, RawEvent) and stalls(record):
            self._end(record)
        self.parts.drain.offer(record)
        return False

    def _end(self, record: RawEvent) -> None:
        """A socket may be in any folder below a container's: the slot names the endpoint."""
        folders = self.writer.endpoints.a_folder_of_each([record.slot])
        self.parts.closer.inbox.put(stalled(record, folders[0] if folders else record.cgroup_id))

    def _answer(self) -> None:
        """The kernel has met cgroups that it does not know: perhaps the folders' events are still on their way."""
        self._on_folders()
        self.parts.unknown.answer(lambda: self._look(self.parts.watcher.resync))

    # -- what is due

    def _on_time(self, now: float) -> None:
        if now >= self._timers.heartbeat:
            self._timers.heartbeat = now + HEARTBEAT_SECONDS
            self._beat(now)
        if now >= self._timers.health:
            self._timers.health = now + HEALTH_SECONDS
            self._check_health()
            self.publisher.publish()
        if now >= self._timers.scan:
            self._look(self.parts.watcher.resync)
            self._timers.scan = now + (BLIND_SCAN_SECONDS if self.parts.watcher.trouble else SCAN_SECONDS)
        if self.parts.unknown:
            self._answer()

    def _beat(self, now: float) -> None:
        self.heartbeat.beat()
        self.health.guarded(self.classifier.classify_unknown)
        outcome = self.health.guarded(lambda: self.writer.expire(now))
        self.classifier.forget(outcome.gone)
        if self.writer.endpoints.touched or self.classifier.touched:
            self.publisher.after(outcome, Changes())

    def _check_health(self) -> None:
        self.health.check()
        self._log_enforcing()
        self.health.guarded(self._forget_asked)
        self.health.note(Topic.SOURCE, self.parts.source.trouble())
        self._log_events_lacking()
        self.health.note(Topic.PENDING, self.classifier.overdue())
        if Topic.STATE in self.health.problems:
            self.publisher.save()

    def _forget_asked(self) -> None:
        forget_asked(self.parts.kernel.maps["pending"], int(self._clock() * 1e9))

    def _log_enforcing(self) -> None:
        """Once, as soon as a program is on a root."""
        attached = self.parts.kernel.attached() if not self._enforcing else ()
        if any(each.ours and each.cgroup_id for each in attached):
            self._enforcing = True
            event("agent.enforcing", endpoints=len(self.writer.endpoints.by_uid), roots=len(self.folders.roots))

    def _log_events_lacking(self) -> None:
        """That events of folders are lacking is no reason not to be ready; the log has when it begins and ends."""
        lacking, self._lacking = self._lacking, self.parts.without_events()
        if self._lacking and not lacking:
            event("folders.without_events", level=logging.ERROR, why="; ".join(self._lacking))
        elif lacking and not self._lacking:
            event("folders.events_are_back")

    def _write_levels(self) -> None:
        if (levels := self.folders.levels()) != self._levels:
            self._levels = levels
            self.heartbeat.beat()

    def _write_config(self) -> None:
        """Settings of the programs, and the heartbeat (in either thread, one at a time)."""
        value = pack_config(self.parts.config, self.parts.hz, self._levels, int(self._clock() * 1e9))
        self.parts.kernel.maps["config"].put(U32.pack(value=0), value)
