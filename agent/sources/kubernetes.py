"""Source `kubernetes`: informers on the API server. A thread for each kind lists and watches; one reader applies.

Watch, then trust: list, watch from there, bookmarks, relist on 410 Gone, jittered backoff (agent.sources.informer).
Nothing is pruned before a kind's first whole list, and the snapshot is complete when every kind has had one.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from agent.errors import ApiError, StateError
from agent.log import event
from agent.model.changes import Changes
from agent.model.cluster import Settings
from agent.model.validated import ValidatedPolicy
from agent.parse.object_kinds import OBJECT_KINDS, Item, ObjectKind, Watch
from agent.parse.objects import parse_object
from agent.semantics.peers import reads_pods
from agent.sources.informer import Backoff, Informer
from agent.sources.kube_api import KubeApi
from agent.sources.last_valid import LastValid
from agent.sources.reflector import Reflector, Resource, Step
from agent.sources.room import Room
from agent.sources.store import Key, Store
from agent.sources.update import Problem, Update

UNREADY_SECONDS = 30.0
"""Without news for so long the agent is not ready: a server that is started again is away for less."""


def resources(api: KubeApi, node: str, *, network_policies: bool) -> tuple[Resource, ...]:
    """What this agent reads, by what the server serves and the settings ask for. Raises ApiError."""
    return tuple(
        Resource(
            each.kind, _version(api, each), each.plural, optional=each.ours, judged=each.ours, kept=each.kept,
            field_selector=f"spec.nodeName={node}" if each.watch is Watch.OWN_NODE else "",
            for_reports=each.watch is Watch.FOR_REPORTS,
        )
        for each in OBJECT_KINDS
        if network_policies or each.watch is not Watch.NETWORK_POLICY
    )  # fmt: skip


def _version(api: KubeApi, kind: ObjectKind) -> str:
    """The first that the server serves, where more than one is known."""
    if len(kind.versions) == 1:
        return kind.versions[0]
    served = api.versions(kind.group)
    found = [version for version in kind.versions if version.rpartition("/")[2] in served]
    if not found:
        raise ApiError(f"the server serves no {kind.group} that is known here", 0)
    return found[0]


@dataclass(slots=True)
class _Answer:
    informer: Informer
    step: Step


@dataclass(slots=True)
class KubernetesSource:
    """As agent.sources.files.FilesSource: `start`, then `read` in a loop. Informers run in daemon threads."""

    api: KubeApi
    store: Store
    node: str
    cluster: str = "default"
    managed_namespaces: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    name: str = "kubernetes"
    whole_truth: bool = False
    kept: LastValid | None = None
    room: Room = field(default_factory=Room)
    informers: list[Informer] = field(default_factory=list)
    expected: int = 0  # informers whose first lists make the snapshot complete; 0 before the server has answered
    _others: Informer | None = None
    _unreachable_since: float = 0.0  # before the first answer; monotonic, 0 after it
    _remembered: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _to_keep: bool = False
    _answers: queue.SimpleQueue[_Answer] = field(default_factory=queue.SimpleQueue)
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Update:
        """What is known without the API; the informers start behind it."""
        self._remembered = self.kept.read() if self.kept is not None else {}
        threading.Thread(target=self._begin, name="informers", daemon=True).start()
        return Update(self.store.snapshot, Changes(everything_else=True), self.problems)

    def read(self, timeout_seconds: float = 0.0) -> Update | None:
        """All answers that are there, as one step; waits for a first one."""
        self._keep()
        try:
            answers = [self._answers.get(timeout=timeout_seconds or 0.001)]
        except queue.Empty:
            return None
        while not self._answers.empty() and len(answers) < 1000:
            answers.append(self._answers.get())
        changes = Changes()
        for answer in answers:
            changes |= self._apply(answer)
        if self._others is None and self._needs_other_pods():
            resource = Resource("Pod", "v1", "pods", field_selector=f"spec.nodeName!={self.node}")
            self._others = self._start_informer(resource)
        problems = tuple(Problem("", 0, 0, e) for i in self.informers for e in list(i.reflector.problems.values()))
        same = changes == Changes() and problems == self.problems
        self.problems = problems
        return None if same else Update(self.store.snapshot, changes, problems)

    def configure(self, change: Callable[[Settings], Settings]) -> Update | None:
        changes = self.store.configure(change(self.store.snapshot.settings))
        return Update(self.store.snapshot, changes, self.problems) if changes != Changes() else None

    def rescan(self) -> Update | None:
        """Nothing: watches bring everything, and each begins with a list."""
        return None

    def stale_seconds(self) -> float:
        """How old what is known of some kind may be; 0 when all is new."""
        now = time.monotonic()
        begun = now - self._unreachable_since if self._unreachable_since else 0.0
        return max([begun, *(informer.stale_seconds(now) for informer in list(self.informers))])

    def trouble(self) -> str:
        """Why the agent is not ready; "" while it is."""
        now = time.monotonic()
        stale = sorted({i.kind for i in list(self.informers) if i.stale_seconds(now) > UNREADY_SECONDS})
        if stale:
            return f"nothing new is known of {', '.join(stale)}: what is enforced stays, changes do not arrive"
        if self._unreachable_since and now - self._unreachable_since > UNREADY_SECONDS:
            return "the API server has not answered yet: what is enforced stays, changes do not arrive"
        return ""

    def without_events(self) -> str:
        """ "": no folder's events are used here."""
        return ""

    def judgements(self) -> tuple[ValidatedPolicy, ...]:
        """Every policy object of the server, valid or not."""
        return tuple(judged for informer in list(self.informers) for judged in informer.reflector.judgements())

    def close(self) -> None:
        self._stop.set()

    def _keep(self) -> None:
        """What is in force now, for the next agent; after it was handed over, and never half a list of it."""
        kept = [i for i in self.informers if i.reflector.resource.kept]
        if self.kept is None or not self._to_keep or not all(i.settled for i in kept):
            return
        self._to_keep = False
        try:
            self.kept.write(obj for informer in kept for obj in informer.reflector.to_keep())
        except StateError as exc:  # with the next change again; until then a restart knows what was kept before
            event("last_valid.not_kept", level=logging.ERROR, why=str(exc))

    def _apply(self, answer: _Answer) -> Changes:
        """A pod that was bound to this node leaves the others' list; that is no deletion."""
        first, answer.informer.settled = not answer.informer.settled, True
        self._to_keep |= answer.informer.reflector.resource.kept
        deletes = answer.step.deletes
        if first and answer.informer.reflector.resource.kind == "Namespace":
            listed = {name.name for name in answer.informer.reflector.names()}  # invalid ones among them (P17)
            remembered = self.store.snapshot.namespaces
            deletes += tuple(Key("namespaces", name) for name in remembered if name not in listed)
        if answer.informer is self._others:
            own = next(i for i in self.informers if i.reflector.resource.kind == "Pod")
            deletes = tuple(key for key in deletes if not own.reflector.holds(key))
        return self.store.apply(answer.step.upserts, deletes, complete=self._complete())

    def _start_informer(self, resource: Resource) -> Informer:
        remembered = self._remembered if resource.kept else {}
        reflector = Reflector(resource, self._parse, remembered=remembered, room=self.room)
        informer = Informer(self.api, reflector, lambda of, step: self._answers.put(_Answer(of, step)), self._stop)
        self.informers.append(informer)
        threading.Thread(target=informer.run, name=f"watch-{resource.plural}", daemon=True).start()
        return informer

    def _needs_other_pods(self) -> bool:
        """Pods of other nodes are read only where a policy selects pods or tasks (S2)."""
        snapshot = self.store.snapshot
        own = (peer for policy in snapshot.policies.values() for _, _, peer in policy.peers())
        native = (peer for policy in snapshot.network_policies.values() for peer in policy.peers())
        return any(map(reads_pods, chain(own, native)))

    def _complete(self) -> bool:
        if self.store.snapshot.complete:
            return True
        waited_for = [each for each in self.informers if not each.reflector.resource.for_reports]
        return 0 < self.expected <= sum(informer.settled for informer in waited_for)

    def _begin(self) -> None:
        """Ask what the server serves, until it answers; then one thread for each kind."""
        wait = Backoff()
        self._unreachable_since = time.monotonic()
        while not self._stop.is_set():
            try:
                found = resources(self.api, self.node, network_policies=self.store.snapshot.settings.network_policy)
            except ApiError as exc:
                event("api.unreachable", level=logging.WARNING, host=self.api.host, why=str(exc))
                self._stop.wait(wait.next())
                continue
            self.expected = sum(not resource.for_reports for resource in found)
            self._unreachable_since = 0.0
            for resource in found:
                self._start_informer(resource)
            return

    def _parse(self, obj: Mapping[str, Any]) -> Item:
        return parse_object(obj, cluster=self.cluster, managed_namespaces=self.managed_namespaces)
