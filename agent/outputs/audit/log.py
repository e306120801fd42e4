"""The audit log as an output: a thread of its own writes what the others hand over, and holds up none of them.

What finds no room, or no disk, is a record too: the next one that is written tells how much is missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from agent.log import event
from agent.model.flow import Denial
from agent.model.node_state import NodeState, View
from agent.model.verdict import Verdict
from agent.outputs.audit.chain import MAX_LINE_BYTES, Head, canonical, digest
from agent.outputs.audit.entries import Entry, differences, of_denial, of_start
from agent.outputs.audit.journal import Found, Journal
from agent.outputs.output import Output

QUEUED, REPORTS, BATCH = 100_000, 64, 1000
RETRY_SECONDS, HEAD_SECONDS, LOSSES_SECONDS, TOLD_SECONDS = 5.0, 1.0, 30.0, 3600.0
Waiting = Denial | NodeState


class AuditLog(Output):
    """`view` tells what all parts of the agent have lost."""

    def __init__(
        self, journal: Journal, node: str, view: Callable[[], View | None], *, queued: int = QUEUED,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._journal, self._node, self._view, self._room, self._clock = journal, node, view, queued, clock
        self._denials: deque[Denial] = deque()
        self._reports: list[NodeState] = []
        self._changed = threading.Condition()
        self._ending = self._open = False
        self._state: NodeState | None = None
        self._found: dict[str, Any] = {}
        self._missing = Counter[str]()  # since the last gap that was written
        self._lost = Counter(audit_queue=0, audit_write=0, audit_encode=0)
        self._known_losses: Mapping[str, int] = {}
        self._failing = ""
        self._at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Writes what waits and that the agent has stopped."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def denials(self, denials: list[Denial]) -> None:
        found = [each for each in denials if each.verdict is not Verdict.ALLOW]
        with self._changed:
            if len(self._denials) + len(found) <= self._room:
                self._denials.extend(found)
                self._changed.notify_all()
            else:
                self._lost["audit_queue"] += len(found)
                self._missing["queue"] += len(found)

    def report(self, state: NodeState) -> None:
        """Of many that wait, the last one says what the others did, but for what came and went between."""
        with self._changed:
            del self._reports[REPORTS - 1 :]
            self._reports.append(state)
            self._changed.notify_all()

    def losses(self) -> Mapping[str, int]:
        return dict(self._lost)

    def _run(self) -> None:
        while not self._turn():
            pass

    def _turn(self) -> bool:
        """True: it was the last one. Without a file everything waits, and what finds no room is counted."""
        was_ending = self._ending
        if not self._open:
            self._try_to_open(at_once=was_ending)
        with self._changed:
            if self._open:
                self._changed.wait_for(lambda: self._denials or self._reports or self._ending, HEAD_SECONDS)
            elif not self._ending:
                self._changed.wait(HEAD_SECONDS)
            if not self._open:
                return was_ending
            batch: list[Waiting] = [*self._reports]
            batch += [self._denials.popleft() for _ in range(min(BATCH, len(self._denials)))]
            self._reports = []
            ending = self._ending and not self._denials
            missing, self._missing = self._missing, Counter()
        entries = [_bounded(entry) for each in batch for entry in self._entries(each)]
        if ending and self._state is not None:
            entries.append({"kind": "agent_stop", "version": self._state.facts.version})
        gap = [{"kind": "gap", "lost": dict(missing)}] if missing else []
        self._write([*gap, *self._losses_since(), *entries], missing, last=ending)
        return ending

    def _entries(self, seen: Waiting) -> list[Entry]:
        try:
            if isinstance(seen, Denial):
                return [of_denial(seen)]
            before, self._state = self._state, seen
            start = [of_start(seen, self._found)] if before is None else []
            return [*start, *differences(before, seen)]
        except (ValueError, OverflowError) as exc:
            self._lost["audit_encode"] += 1
            self._missing["encode"] += 1
            event("audit.not_encoded", level=logging.ERROR, why=str(exc))
            return []

    def _losses_since(self) -> list[Entry]:
        if self._state is None or not self._due("losses", LOSSES_SECONDS):
            return []
        view = self._view()
        found = dict(view.totals.losses) if view else {}
        more = {name: count - self._known_losses.get(name, 0) for name, count in found.items()}
        self._known_losses = found
        lost = {name: count for name, count in more.items() if count > 0}
        return [{"kind": "losses", "lost": lost}] if lost else []

    def _write(self, entries: list[Entry], missing: Counter[str], *, last: bool) -> None:
        """What could not be written is a gap, in front of what is written next."""
        try:
            if entries:
                self._append(entries)
            if last or (entries and self._due("head", HEAD_SECONDS)):
                self._journal.keep_head()
        except (OSError, ValueError) as exc:
            self._open = False
            count = sum(entry["kind"] != "gap" for entry in entries)
            self._lost["audit_write"] += count
            with self._changed:
                self._missing.update({**missing, "write": count})
            self._is_failing(exc)
            return
        if self._failing and entries:
            event("audit.mended", seq=self._journal.head.seq, lost=self._lost["audit_write"])
            self._failing = ""
        self._told(last=last)

    def _append(self, entries: list[Entry]) -> None:
        common = {"time": _text(self._clock()), "node": self._node}
        if self._journal.full:
            if gone := self._journal.leaving():
                self._journal.append([{**common, "kind": "rotated", "gone_through": gone}])
            self._journal.rotate()
        self._journal.append([{**common, **entry} for entry in entries])

    def _try_to_open(self, *, at_once: bool) -> None:
        """What an agent before this one left is told in the first record."""
        if not self._due("retry", 0 if at_once else RETRY_SECONDS):
            return
        try:
            expected, found = self._journal.kept_head(), self._journal.resume()
            if self._state is None:
                self._found = _as_found(found, expected)
            elif found.as_fields():
                self._append([{"kind": "resumed", **found.as_fields()}])
            self._open = True
        except (OSError, ValueError) as exc:
            self._is_failing(exc)

    def _is_failing(self, exc: Exception) -> None:
        if not self._failing:
            event("audit.failed", level=logging.ERROR, path=str(self._journal.path), why=str(exc))
        self._failing = str(exc) or "failed"

    def _told(self, *, last: bool) -> None:
        """The head in the agent's own log, which goes elsewhere: nobody can cut the end off then."""
        if self._journal.head.seq and (self._due("told", TOLD_SECONDS) or last):
            event("audit.head", seq=self._journal.head.seq, hash=self._journal.head.hash)

    def _due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._at.get(what, float("-inf")) < seconds:
            return False
        self._at[what] = now
        return True


def _as_found(found: Found, expected: Head) -> dict[str, Any]:
    last = found.last or {}
    missing = {"missing_through": expected.seq} if expected.seq > found.head.seq else {}
    stopped = last.get("kind") == "agent_stop"
    before = {"version_before": last.get("version", "")} if stopped else {}
    return {**found.as_fields(), **missing, **({"clean": stopped} if found.last else {}), **before}


def _bounded(entry: Entry) -> Entry:
    """A policy may be longer than a line: its name and its hash are kept."""
    line = canonical(entry)
    if len(line) < MAX_LINE_BYTES // 2:
        return entry
    short = {
        key: value
        for key, value in entry.items()
        if isinstance(value, int) or (isinstance(value, str) and len(value) < 1024)
    }
    return {**short, "too_long": len(line), "sha256": digest(line)}


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
