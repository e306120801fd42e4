"""The writing thread of one node: manifests, cgroup folders and kernel questions in; maps, contexts and views out."""

from __future__ import annotations

import logging
import os
import queue
import selectors
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.abi.structs import CONFIG, U32, U64
from agent.app.closer import Closer, stalls
from agent.app.drain import Drain, Snapshot
from agent.app.folders import DEFAULT_LEVELS, Folders
from agent.app.state import State, StateFolder
from agent.compiler.changes import EVERYTHING, Changes
from agent.config import Config, OnAgentLoss
from agent.errors import DagwallError, KernelError
from agent.flows.decode import RawEvent, decode_event
from agent.flows.join import Context
from agent.kernel.datapath import Datapath
from agent.log import event
from agent.model.flow import EndpointFacts
from agent.model.identity import Identity, Kind, PodUid
from agent.model.settle import Settled, SettledBy, settle
from agent.model.verdict import EndpointState, EventKind
from agent.model.want import Assignment, RulesetId
from agent.sources.cgroup_ids import path_of
from agent.sources.cgroup_watch import Added, CgroupEvent, CgroupWatcher
from agent.sources.cgroups import ContainerFolder, RootFolder
from agent.sources.files import FilesSource, Update
from agent.sources.host import log_folders
from agent.sync.writer import Outcome, Writer

AGENT = PodUid("dagwall-agent")
HEARTBEAT_SECONDS = 1.0
HEALTH_SECONDS = 2.0
RESCAN_SECONDS = 10.0


def own_cgroup(mount: Path) -> int:
    """Inode of the agent's own cgroup, which it must never lock; 0 at the root of the hierarchy, or outside of it."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        if line.startswith("0::"):
            path = mount / line[3:].lstrip("/")
            return path.stat().st_ino if path.is_dir() and path != mount else 0
    return 0


@dataclass(slots=True)
class Timers:
    """When what is due, on the monotonic clock."""

    heartbeat: float = 0.0
    health: float = 0.0


class Node:
    """Built by agent.app.main; `run` is the thread. Everything it publishes is immutable."""

    def __init__(
        self,
        config: Config,
        *,
        datapath: Datapath,
        writer: Writer,
        source: FilesSource,
        watcher: CgroupWatcher,
        drain: Drain,
        state: StateFolder,
        hz: int,
        publish: Callable[[Node], None],
    ) -> None:
        self.config, self.datapath, self.writer, self.source = config, datapath, writer, source
        self.watcher, self.drain, self.hz = watcher, drain, hz
        self.closer = Closer(self.folders_of)
        self.folders = Folders()
        self.settled: dict[PodUid, Settled] = {}
        self.problems: dict[str, str] = {}
        self.attached_after_seconds = 0.0
        self.context = Context(writer.cluster, {}, {}, {})
        self._state, self._publish = state, publish
        self._levels = DEFAULT_LEVELS
        self._updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        self._evictions: queue.SimpleQueue[Counter[int]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._timers = Timers()
        self._saved: State | None = None

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
        self._settle_as_unmanaged(AGENT, "", SettledBy.NOBODY)
        self._settle_unknown()
        if not self.datapath.adopted:
            self._let_pass_what_was_there()
        self._attach()
        self._after(outcome, EVERYTHING)
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

    def evicted(self, by_slot: Counter[int]) -> None:
        """The draining thread has taken these out of `flows`."""
        self._evictions.put(by_slot)
        os.eventfd_write(self._wake, 1)

    def follow_source(self) -> None:
        """The source's own thread: waiting for an editor to finish must not hold up a pod."""
        due = time.monotonic() + RESCAN_SECONDS
        while not self._stopping:
            update = self.source.read(HEARTBEAT_SECONDS / 2)
            if time.monotonic() >= due:
                due = time.monotonic() + RESCAN_SECONDS
                update = self.source.rescan() or update
            if update is not None:
                self._updates.put(update)
                os.eventfd_write(self._wake, 1)

    def _take(self, update: Update) -> None:
        self._report_objects(update)
        before = time.monotonic()
        outcome = self._guarded(lambda: self.writer.update(update.snapshot, update.changes))
        self._settle_unknown()
        self._after(outcome, update.changes)
        event(
            "snapshot.programmed", revision=update.snapshot.revision, writes=outcome.writes, bumped=outcome.bumped,
            refused=outcome.refused, seconds=round(time.monotonic() - before, 6),
        )  # fmt: skip

    def _on_folders(self) -> None:
        changed = False
        for found in self.watcher.read():
            changed |= self._apply(found)
        if changed:
            self._settle_unknown()
            self._after(Outcome(), Changes())

    def _apply(self, found: CgroupEvent) -> bool:
        """True where something other than a container came or went."""
        folder = found.folder
        if isinstance(found, Added):
            self.folders.add(folder)
            if isinstance(folder, RootFolder):
                self._guarded(self._attach)
            elif not folder.outside:
                self._guarded(lambda: self.writer.add_folder(folder.uid, folder.cgroup_id))
        else:
            if folder.cgroup_id in self.folders.pods:
                self.writer.remove_folder(folder.cgroup_id, time.monotonic())
            self.folders.remove(folder)
        if self.folders.levels() != self._levels:
            self._write_config()
        return not isinstance(folder, ContainerFolder)

    def _on_records(self) -> None:
        for data in self.datapath.events.read():
            record = decode_event(data)
            if record.kind is EventKind.PENDING:
                self._answer(record)
                continue
            if stalls(record):
                self.closer.inbox.put(record)
            self.drain.inbox.put(record)

    def folders_of(self, cgroup_id: int) -> list[Path]:
        """Where processes of a cgroup's endpoint may be: its own folder, then the others of the pod. Any thread."""
        uid = self.folders.pods.get(cgroup_id)
        paths = [f.path for f in list(self.watcher.known.values()) if f.cgroup_id == cgroup_id]
        paths += [
            f.path for f in list(self.watcher.known.values()) if isinstance(f, ContainerFolder) and f.uid == uid
        ]
        return [self.watcher.mount / path.lstrip("/") for path in paths]

    def _answer(self, record: RawEvent) -> None:
        """The kernel has met a cgroup that it does not know: perhaps the folder's event is still on its way."""
        self._on_folders()
        known = (record.cgroup_id, *record.ancestors)
        if not any(cgroup in self.folders.pods for cgroup in known):
            for found in self.watcher.resync():
                self._apply(found)
            self._settle_unknown()
        if not any(cgroup in self.folders.pods for cgroup in known):
            path = path_of(self.watcher.mount, record.cgroup_id)
            event("cgroup.unknown", level=logging.WARNING, cgroup_id=record.cgroup_id, path=path or "gone")
        self.datapath.maps["pending"].delete(U64.pack(value=record.cgroup_id))

    def _on_wake(self) -> None:
        os.eventfd_read(self._wake)
        while not self._evictions.empty():
            self.writer.evicted(self._evictions.get())
        while not self._updates.empty():
            self._take(self._updates.get())

    def _on_time(self, now: float) -> None:
        if now >= self._timers.heartbeat:
            self._timers.heartbeat = now + HEARTBEAT_SECONDS
            self._write_config()
            self._settle_unknown()
            outcome = self._guarded(lambda: self.writer.expire(now))
            if outcome.gone:
                for uid in outcome.gone:
                    self.settled.pop(uid, None)
                self._after(outcome, Changes())
        if now >= self._timers.health:
            self._timers.health = now + HEALTH_SECONDS
            self._check_health()
            self._publish(self)

    # -- what follows

    def _settle_unknown(self) -> None:
        """L2: pods that have a folder and that no snapshot explains."""
        pending = self.writer.pending()
        if not pending:
            return
        folders = log_folders(self.config.log_folders)
        for uid in pending:
            found = settle(uid, self.writer.cluster, folders, complete=self.writer.cluster.complete)
            self.settled[uid] = found
            if found.state is EndpointState.UNMANAGED:
                self._settle_as_unmanaged(uid, found.namespace, found.by)

    def _let_pass_what_was_there(self) -> None:
        """On a node's first start, folders that nobody can explain pass, and are recorded (L5)."""
        for uid in self.writer.pending():
            self.settled[uid] = Settled(EndpointState.UNMANAGED, SettledBy.FIRST_BOOT)
            self._settle_as_unmanaged(uid, "", SettledBy.FIRST_BOOT)

    def _settle_as_unmanaged(self, uid: PodUid, namespace: str, by: SettledBy) -> None:
        identity = Identity(self.writer.cluster.settings.cluster, namespace, "", "", "", Kind.OTHER)
        self.writer.settle(uid, Assignment(identity, EndpointState.UNMANAGED, RulesetId(0)))
        event("endpoint.settled", uid=uid, namespace=namespace, by=by.value)

    def _after(self, outcome: Outcome, changes: Changes) -> None:
        """Tell everybody else what is so now."""
        if outcome.refused:
            self.problems["revision"] = f"revision refused: {outcome.refused}"
            event("revision.refused", level=logging.ERROR, why=outcome.refused)
        elif changes != Changes():
            self.problems.pop("revision", None)
        self.context = self._make_context()
        self.drain.inbox.put(Snapshot(self.context, changes))
        self._publish(self)
        self._save()

    def _make_context(self) -> Context:
        by_slot, by_cgroup = {}, {}
        for endpoint in self.writer.endpoints.by_uid.values():
            facts = self.facts(endpoint.uid)
            if facts is not None:
                by_slot[endpoint.slot] = facts
                by_cgroup.update(dict.fromkeys(endpoint.folders, facts))
        by_slot.pop(0, None)
        return Context(self.writer.cluster, by_slot, by_cgroup, self.writer.compiler.rule_refs, self.config.node)

    def facts(self, uid: PodUid) -> EndpointFacts | None:
        """What reports say of an endpoint; None while nobody knows it."""
        endpoint, pod = self.writer.endpoints.by_uid.get(uid), self.writer.cluster.pods.get(uid)
        if endpoint is None or endpoint.assignment is None:
            return None
        return EndpointFacts(
            identity=endpoint.assignment.identity,
            number=endpoint.number or 0,
            namespace=endpoint.assignment.identity.namespace,
            pod=pod.name if pod else "",
            uid=uid,
            claim=pod.claim if pod else None,
            node=self.config.node,
        )

    def _write_config(self) -> None:
        """Settings of the programs, and the heartbeat."""
        config, self._levels = self.config, self.folders.levels()
        value = CONFIG.pack(
            heartbeat_ns=time.monotonic_ns(),
            loss_grace_ns=int(config.loss_grace_seconds * 1e9),
            loss_denies=int(config.on_agent_loss is OnAgentLoss.DENY),
            pod_level=self._levels,
            reply_ticks=int(config.reply_seconds * self.hz),
            flush_ticks=self.hz,
            syn_ticks=max(2, self.hz * 12 // 1000),
            syn_tries=13,
            event_rate=config.event_rate,
            event_burst=config.event_burst,
            flow_quota=config.flow_quota,
            hz=self.hz,
        )
        self.datapath.maps["config"].put(U32.pack(value=0), value)

    def _attach(self) -> Outcome:
        self.datapath.attach([self.watcher.mount / root.path.lstrip("/") for root in self.folders.roots.values()])
        return Outcome()

    def _guarded(self, step: Callable[[], Outcome]) -> Outcome:
        """A map or hook that refuses makes the agent not ready, and is tried again; nothing enforced is lost."""
        try:
            outcome = step()
        except KernelError as exc:
            self.problems["kernel"] = str(exc)
            event("kernel.refused", level=logging.ERROR, why=str(exc))
            return Outcome(refused=str(exc))
        return outcome

    def _check_health(self) -> None:
        """Hooks lost, roots missing, containers outside: found within seconds, mended where possible, said loudly."""
        if "kernel" in self.problems:
            self._mend()
        attached = {(a.cgroup_id, a.hook) for a in self.datapath.attached()}
        roots = self.folders.roots.values()
        missing = [root.path for root in roots if (root.cgroup_id, "egress") not in attached]
        if missing:
            self._guarded(self._attach)
        self._say("roots", "" if roots else "no pods' root in the cgroup tree: nothing is enforced")
        self._say("hooks", f"not attached to {', '.join(missing)}" if missing else "")
        outside = ", ".join(self.folders.unguarded_pods())
        self._say("outside", f"containers outside the pods' roots, pods {outside}" if outside else "")
        if not self.datapath.pins_are_there():
            self._guarded(self._pin_again)

    def _mend(self) -> None:
        try:
            self._attach()
            self.writer.resync()
        except DagwallError as exc:
            self.problems["kernel"] = str(exc)
        else:
            del self.problems["kernel"]
            event("kernel.mended")

    def _pin_again(self) -> Outcome:
        self.datapath.pin_again()
        event("pins.restored", level=logging.WARNING)
        return Outcome()

    def _say(self, topic: str, problem: str) -> None:
        if problem and self.problems.get(topic) != problem:
            event("agent.not_ready", level=logging.ERROR, topic=topic, why=problem)
        if problem:
            self.problems[topic] = problem
        else:
            self.problems.pop(topic, None)

    def _report_objects(self, update: Update) -> None:
        for problem in update.problems:
            event("object.invalid", level=logging.ERROR, problem=str(problem))

    def _save(self) -> None:
        """Numbers, and the claims of this node's pods, to disk where they changed."""
        claims = self.source.store.claims
        now = State(
            numbers=self.writer.endpoints.numbers.snapshot(),
            claims={uid: claims[uid] for uid in self.writer.endpoints.by_uid if uid in claims},
            complete=self.writer.cluster.complete,
        )
        if now != self._saved:
            self._state.write(now)
            self._saved = replace(now)
