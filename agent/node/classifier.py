"""Pods that have a folder and are in no snapshot: who they are, as far as this node knows by itself (L2)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.log import event
from agent.model.classify import Classified, ClassifiedBy, classify
from agent.model.cluster import Name
from agent.model.identity import Identity, Kind, PodUid
from agent.model.verdict import EndpointState
from agent.model.want import Assignment, RulesetId
from agent.sources.host import log_folders
from agent.sync.writer import Writer

PENDING_SECONDS = 10.0
"""A watch shows a pod within moments of its folder; what takes longer is trouble that people must see (L2)."""


@dataclass(slots=True)
class Classifier:
    """Owned by the writing thread."""

    writer: Writer
    log_folders: Path
    waited: Callable[[float], None]  # takes for how many seconds a pod was pending
    known_here: bool = False  # the namespaces were listed here before a restart (L3)
    whole_truth: bool = False  # the source holds every namespace that is managed (L2d)
    clock: Callable[[], float] = time.monotonic
    classified: dict[PodUid, Classified] = field(default_factory=dict)
    _since: dict[PodUid, float] = field(default_factory=dict)
    touched: set[PodUid] = field(default_factory=set)  # until take_touched

    def take_touched(self) -> set[PodUid]:
        """Pods of which something else is classified than at the last call."""
        touched, self.touched = self.touched, set()
        return touched

    def classify_unknown(self) -> None:
        """Ask the pod's own name, the snapshot, and the kubelet's log folders; who stays unknown stays pending."""
        pending = self.writer.pending()
        self._time(pending)
        if not pending:
            return
        folders, cluster = self._log_folders(), self.writer.cluster
        for uid in pending:
            complete = self.known_here or cluster.complete
            found = classify(uid, cluster, folders, complete=complete, whole_truth=self.whole_truth)
            self._note(uid, found)
            if found.state is EndpointState.UNMANAGED:
                self.let_pass(uid, found)

    def _log_folders(self) -> dict[PodUid, Name]:
        """Nobody is known by them while they cannot be listed: who is pending stays so."""
        try:
            return log_folders(self.log_folders)
        except OSError as exc:
            event("log_folders.unreadable", level=logging.WARNING, path=str(self.log_folders), why=exc.strerror)
            return {}

    def overdue(self) -> str:
        """Pods that have been pending for longer than it takes to know a pod; "" while there are none."""
        now = self.clock()
        late = sorted(uid for uid, since in self._since.items() if now - since > PENDING_SECONDS)
        if not late:
            return ""
        more = f" and {len(late) - 5} more" if len(late) > 5 else ""
        named = ", ".join(self._name(uid) for uid in late[:5])
        return f"pods that nobody can identify, nothing leaves them: {named}{more}"

    def _name(self, uid: PodUid) -> str:
        found = self.classified.get(uid)
        return f"{found.namespace}/{found.name} ({uid})" if found is not None and found.name else str(uid)

    def _note(self, uid: PodUid, found: Classified) -> None:
        if self.classified.get(uid) != found:
            self.touched.add(uid)
            self.classified[uid] = found

    def _time(self, pending: list[PodUid]) -> None:
        now, still = self.clock(), set(pending)
        for uid in [uid for uid in self._since if uid not in still]:
            self.waited(now - self._since.pop(uid))
        for uid in pending:
            self._since.setdefault(uid, now)

    def let_pass_what_was_there(self) -> None:
        """On a node's first start, folders that nobody can explain pass, and are recorded (L5)."""
        for uid in self.writer.pending():
            self._note(uid, Classified(EndpointState.UNMANAGED, ClassifiedBy.FIRST_BOOT))
            self.let_pass(uid, self.classified[uid])

    def let_pass(self, uid: PodUid, found: Classified) -> None:
        """Unmanaged, though no snapshot has the pod."""
        identity = Identity(self.writer.cluster.settings.cluster, found.namespace, "", "", "", Kind.OTHER)
        self.writer.assign_without_pod(uid, Assignment(identity, EndpointState.UNMANAGED, RulesetId(0)))
        level = logging.WARNING if found.unclassified else logging.INFO
        event("endpoint.settled", level=level, uid=uid, namespace=found.namespace, by=found.by.value)

    def forget(self, uids: list[PodUid]) -> None:
        """Pods whose last folder has gone."""
        for uid in uids:
            self.classified.pop(uid, None)
