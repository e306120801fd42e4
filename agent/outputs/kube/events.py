"""Denials and contradicting claims as Kubernetes Events on the pod: what `kubectl describe pod` shows. Pure.

One Event for each (pod, peer and port, rule, reason), with a count, written again at most every EVERY_SECONDS. It
counts the denials that the kernel reported: its own token bucket may have suppressed some, which `losses` and the
exact totals (`dagwall_task_denied_total`) tell (R2). Memory is bounded: SERIES in all, SERIES_OF_A_POD of each pod,
and a last one for all its further peers. Namespaces share room and writes: where there is none left, the namespace
with the most series gives one up, and the next write is of the namespace that has waited longest, so that a tenant
that scans blinds no other (S1).

Source: core/v1 Event; the API server drops events after an hour (--event-ttl), and a pod's events with its namespace.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from agent.model.flow import Denial
from agent.model.report import EndpointRow
from agent.model.verdict import EndpointState, Verdict
from agent.outputs.reasons import Reasons, author_reason
from agent.outputs.words import sentence
from agent.text import printable

EVERY_SECONDS = 10.0
"""Between two writes of one Event."""
RATE, BURST = 2.0, 25.0
"""Writes a second of one agent, and at once: a thousand nodes must not be a load."""
SERIES, SERIES_OF_A_POD = 2000, 20
IDLE_SECONDS = 600.0
MESSAGE = 1024
"""Characters of an Event's message; more is refused by events.k8s.io."""
_NAME = 220
"""Of the pod's name in the Event's; names of objects have 253 characters."""


@dataclass(frozen=True, slots=True)
class EventWrite:
    """One request: a new Event, or a merge patch of one that is there."""

    namespace: str
    name: str
    body: dict[str, Any]
    key: tuple[object, ...]
    count: int
    new: bool


@dataclass(frozen=True, slots=True)
class _Pod:
    namespace: str
    name: str
    uid: str


@dataclass(slots=True)
class _Series:
    """All equal occurrences of one pod. `name` is the Event's; "" before it is made."""

    pod: _Pod
    type: str  # Normal or Warning
    reason: str
    message: str
    first: float  # seconds since the epoch
    last: float
    count: int = 0
    name: str = ""
    written: int = 0  # the count that the server has
    written_at: float = float("-inf")
    seen_at: float = 0.0


@dataclass(slots=True)
class EventSeries:
    """Not thread-safe. Clocks: `now` is monotonic; times in Events are those of the denials."""

    node: str
    every: float = EVERY_SECONDS
    limit: int = SERIES
    lost: Counter[str] = field(default_factory=Counter)  # denials that no Event will count, by reason
    _series: dict[tuple[object, ...], _Series] = field(default_factory=dict)
    _of_pod: Counter[str] = field(default_factory=Counter)
    _of_namespace: Counter[str] = field(default_factory=Counter)
    _served: dict[str, int] = field(default_factory=dict)  # by namespace: which write was its last
    _writes: int = 0
    _tokens: float = BURST
    _refilled: float | None = None

    def __len__(self) -> int:
        return len(self._series)

    def add(self, denials: Iterable[Denial], reasons: Reasons, now: float) -> None:
        """Denials and audits; what was allowed is no Event."""
        for denial in denials:
            if denial.verdict is Verdict.ALLOW:
                continue
            endpoint, audit = denial.endpoint, denial.verdict is Verdict.AUDIT
            pod = _Pod(endpoint.namespace, endpoint.pod, endpoint.uid)
            key, message = _key(denial), sentence(denial, author_reason(denial, reasons))
            if key not in self._series and self._of_pod[pod.uid] >= SERIES_OF_A_POD:
                key, message = (pod.uid, denial.verdict), _FURTHER
            kind = ("Normal", "NetworkWouldBeDenied") if audit else ("Warning", "NetworkDenied")
            self._count(key, _Series(pod, *kind, message, denial.time, denial.time, seen_at=now))

    def add_contradiction(self, row: EndpointRow, time: float, now: float) -> None:
        """A claim that contradicts itself or a binding: once for each pod and sentence (I2, I5)."""
        quarantined = row.state is EndpointState.QUARANTINED
        text = "; ".join(map(str, row.contradictions))
        message = f"quarantined, nothing leaves it: {text}" if quarantined else text
        reason = "IdentityQuarantined" if quarantined else "IdentityContradicted"
        pod = _Pod(row.namespace, row.pod, row.uid)
        self._count((row.uid, reason, message), _Series(pod, "Warning", reason, message, time, time, seen_at=now))

    def due(self, now: float) -> list[EventWrite]:
        """What should be written now, as far as the rate lets; the rest stays due. Each namespace in turn, in it the
        one that waits longest.
        """
        self._refill(now)
        self._forget_idle(now)
        waiting: dict[str, list[tuple[float, tuple[object, ...]]]] = {}
        for key, series in self._series.items():
            if series.count > series.written and series.written_at + self.every <= now:
                waiting.setdefault(series.pod.namespace, []).append((series.written_at, key))
        for keys in waiting.values():
            keys.sort(key=lambda pair: pair[0])
            keys.reverse()
        writes: list[EventWrite] = []
        while waiting and self._tokens >= 1:
            namespace = min(waiting, key=lambda name: self._served.get(name, -1))
            _, key = waiting[namespace].pop()
            if not waiting[namespace]:
                del waiting[namespace]
            self._tokens -= 1
            self._served[namespace] = self._writes = self._writes + 1
            series = self._series[key]
            series.written_at = now
            writes.append(self._write(key, series))
        return writes

    def done(self, write: EventWrite) -> None:
        """The server has it."""
        series = self._series.get(write.key)
        if series is not None:
            series.name, series.written = write.name, write.count

    def exists(self, write: EventWrite) -> None:
        """The server has an Event of this name: an answer to an earlier try was lost. The next write is a patch."""
        series = self._series.get(write.key)
        if series is not None:
            series.name, series.written_at = write.name, float("-inf")

    def failed(self, write: EventWrite, *, gone: bool) -> None:
        """The server has it not. `gone`: the Event, the pod's namespace or the right to write are not there."""
        series = self._series.get(write.key)
        if series is None:
            return
        if gone and write.new:
            self.lost["events_refused"] += series.count - series.written
            self._drop(write.key)
        elif gone:
            series.name = ""  # it was too old for the server: the next one is a new Event

    def _count(self, key: tuple[object, ...], one: _Series) -> None:
        """One more of this series, which begins with `one` if it is new."""
        if not (one.pod.name and one.pod.namespace):
            self.lost["events_without_pod"] += 1
            return
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= self.limit and not self._make_room(one.pod.namespace):
                self.lost["events_full"] += 1
                return
            series = self._series[key] = one
            self._of_pod[one.pod.uid] += 1
            self._of_namespace[one.pod.namespace] += 1
        series.last, series.seen_at = one.last, one.seen_at
        series.count += 1

    def _write(self, key: tuple[object, ...], series: _Series) -> EventWrite:
        pod, last = series.pod, _time(series.last)
        if series.name:
            body: dict[str, Any] = {"count": series.count, "lastTimestamp": last}
            return EventWrite(pod.namespace, series.name, body, key, series.count, new=False)
        name = _name(pod.name, key, series.first)
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": pod.namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
            },
            "type": series.type,
            "reason": series.reason,
            "message": printable(series.message)[:MESSAGE],
            "count": series.count,
            "firstTimestamp": _time(series.first),
            "lastTimestamp": last,
            "source": {"component": "dagwall", "host": self.node},
        }  # fmt: skip
        return EventWrite(pod.namespace, name, body, key, series.count, new=True)

    def _refill(self, now: float) -> None:
        if self._refilled is not None:
            self._tokens = min(BURST, self._tokens + (now - self._refilled) * RATE)
        self._refilled = now

    def _forget_idle(self, now: float) -> None:
        """A denial after so long a silence is a new Event."""
        idle = [k for k, s in self._series.items() if s.count == s.written and s.seen_at + IDLE_SECONDS < now]
        for key in idle:
            self._drop(key)

    def _make_room(self, namespace: str) -> bool:
        """Of what is written, the one that was silent longest goes. Where nothing is, one of the namespace that has
        the most, unless the newcomer's has as many: what of it is unwritten is counted as lost.
        """
        written = [(s.seen_at, key) for key, s in self._series.items() if s.count == s.written]
        if written:
            self._drop(min(written, key=lambda pair: pair[0])[1])
            return True
        largest, most = self._of_namespace.most_common(1)[0]
        if most <= self._of_namespace[namespace] + 1:
            return False
        theirs = [key for key, series in self._series.items() if series.pod.namespace == largest]
        key = max(theirs, key=lambda each: self._series[each].seen_at)
        self.lost["events_full"] += self._series[key].count - self._series[key].written
        self._drop(key)
        return True

    def _drop(self, key: tuple[object, ...]) -> None:
        pod = self._series.pop(key).pod
        for counter, name in ((self._of_pod, pod.uid), (self._of_namespace, pod.namespace)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        if pod.namespace not in self._of_namespace:
            self._served.pop(pod.namespace, None)


_FURTHER = f"more than {SERIES_OF_A_POD} different peers, ports or rules: further denials are counted here"


def _key(denial: Denial) -> tuple[object, ...]:
    return (
        denial.endpoint.uid, denial.tuple, denial.family, denial.verdict, denial.reason, denial.rule,
    )  # fmt: skip


def _name(pod: str, key: tuple[object, ...], seconds: float) -> str:
    """`POD.HEX`, as client-go names Events; the same for each try, another after a restart or a silence."""
    digest = hashlib.blake2b(f"{key}{seconds!r}".encode(), digest_size=8).hexdigest()
    return f"{pod[:_NAME].rstrip('.-')}.{digest}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
