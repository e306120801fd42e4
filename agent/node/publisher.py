"""What follows from a turn of the writing thread: reports, saved state, connections that are to be judged again."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from agent.log import event
from agent.model.changes import Changes
from agent.model.identity import PodUid
from agent.model.node_state import Topic
from agent.node.flow_drain import Snapshot
from agent.node.parts import Parts
from agent.node.socket_closer import Sweep
from agent.sources.update import Update
from agent.sync.writer import Outcome


class Publisher:
    """Owned by the writing thread. What several steps of one turn have changed is published once."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._newest: Update | None = None
        self._unpublished: Changes | None = None
        self._refused = Changes()
        self._too_big: tuple[str, ...] = ()
        self._first_report = 0.0

    def learn(self, update: Update) -> None:
        """What the source has handed over last, whether it is taken or refused."""
        self._newest = update
        for problem in update.problems:
            event("object.invalid", level=logging.ERROR, problem=str(problem))

    def after(self, outcome: Outcome, changes: Changes) -> None:
        """A step has changed something."""
        parts = self._parts
        self.sweep()
        too_big, self._too_big = self._too_big, tuple(map(str, parts.writer.intake.errors()))
        for text in self._too_big:
            if text not in too_big:
                event("object.refused", level=logging.ERROR, problem=text)
        if outcome.refused:
            parts.health.note(Topic.REVISION, f"revision refused: {outcome.refused}")
            self._refused |= changes
            return
        if changes != Changes():
            parts.health.note(Topic.REVISION, "")
            changes, self._refused = changes | self._refused, Changes()
        self._unpublished = changes if self._unpublished is None else self._unpublished | changes

    def sweep(self) -> None:
        """Where verdicts were called into question, by a repair too, what is open and denied by now ends (P10)."""
        if questioned := self._parts.writer.take_questioned():
            self._parts.closer.inbox.put(Sweep(questioned))

    def publish_changes(self) -> None:
        """Before records that may speak of what is new, and before the next wait."""
        if self._unpublished is None:
            return
        parts, changes, self._unpublished = self._parts, self._unpublished, None
        touched = parts.writer.endpoints.take_touched() | parts.classifier.take_touched() | changes.pods
        parts.directory.update(touched, parts.writer, parts.classifier.classified)
        context = parts.directory.context(parts.writer)
        parts.drain.inbox.put(Snapshot(context, parts.directory.changed, changes))
        parts.reporter.samples.contradicting += parts.directory.contradicting
        self.publish()
        self.save(touched)

    def publish(self) -> None:
        """One report to everybody who takes reports."""
        assert self._newest is not None
        parts = self._parts
        self._first_report = self._first_report or parts.age()
        state = parts.reporter.report(
            self._newest,
            without_events=parts.without_events(),
            forgotten=parts.keeper.folder.damage(),
            enforcing_after_seconds=round(self._first_report, 3),
        )
        parts.news.report(state)
        for receive in parts.receivers:
            receive(state)

    def save(self, uids: Iterable[PodUid] = ()) -> None:
        """Numbers, and the claims of these pods, to disk; a disk that takes nothing is tried again with the next."""
        self._parts.health.saved(lambda: self._parts.keeper.keep(uids))
