"""Outcomes of connections for the metrics: failures by cause, and how long handshakes and answers took. Bounded."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from agent.model.flow import Outcome
from agent.outputs.outcomes import cause_name, detail_name
from agent.outputs.series import OVERFLOW, Gone, Key, Room

WHO = ("namespace", "dag_id", "task_id", "service_account")
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SHARE = 8
"""A histogram is as many series as a counter's, some times over: so much less room."""


@dataclass(slots=True)
class Distribution:
    """`counts`: of each bucket alone, and of what is above the last."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        found, so_far = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((bound, float(so_far)))
        return found


class OutcomeSeries:
    """Failures by task, peer's kind of trouble and detail; times by DAG. `add` is for the draining thread."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._gone = threading.Lock(), Gone(clock)
        self._failures_room, self._times_room = Room(limit), Room(max(1, limit // _SHARE))
        self._failures: Counter[Key] = Counter()
        self._times: dict[Key, tuple[Distribution, Distribution]] = {}

    def add(self, outcomes: Iterable[Outcome]) -> None:
        with self._lock:
            for each in outcomes:
                identity = each.endpoint.identity
                who = (identity.namespace, identity.dag_id, identity.task_id, identity.service_account)
                if each.failed:
                    what = (cause_name(each), detail_name(each))
                    key = (*who, *what)
                    self._failures[key if self._failures_room.take(key) else (*[OVERFLOW] * 4, *what)] += 1
                self._time(who, each)

    def _time(self, who: Key, outcome: Outcome) -> None:
        """An answer that says that something failed is reported at once, and its connection once more at its end."""
        timing = outcome.timing
        if timing.round_trip is None:
            return
        key = who if self._times_room.take(who) else (*[OVERFLOW] * 4,)
        trips, answers = self._times.setdefault(key, (Distribution(), Distribution()))
        trips.add(timing.round_trip)
        if timing.first_byte is not None:
            answers.add(timing.first_byte)

    def forget(self, here: Collection[Key]) -> None:
        """As TaskSeries does."""
        with self._lock:
            known = {key[:4] for key in (*self._failures, *self._times)}
            over = self._gone.update(known, here)
            failures = [key for key in self._failures if key[:4] in over]
            for key in failures:
                del self._failures[key]
            times = [key for key in self._times if key in over]
            for key in times:
                del self._times[key]
            self._failures_room.give_back(failures)
            self._times_room.give_back(times)

    def families(self) -> Iterator[Metric]:
        failures = CounterMetricFamily(
            "dagwall_task_connection_failures",
            "Connections of a task that were let pass and failed, by cause, since this agent started: at most 10 a "
            "second and pod, the others are in dagwall_losses_total, outcome_rate.",
            labels=[*WHO, "cause", "detail"],
        )
        sample = "of a sample of 10 connections a second and pod"
        trips = HistogramMetricFamily(
            "dagwall_task_round_trip_seconds", f"Round trips of a task's TCP connections at their end, {sample}.",
            labels=WHO,
        )  # fmt: skip
        answers = HistogramMetricFamily(
            "dagwall_task_first_byte_seconds", f"Time from the handshake to the first byte of an answer, {sample}.",
            labels=WHO,
        )  # fmt: skip
        with self._lock:
            for key, count in self._failures.items():
                failures.add_metric(key, count)
            for key, (trip, answer) in self._times.items():
                trips.add_metric(key, trip.cumulative(), trip.total)
                answers.add_metric(key, answer.cumulative(), answer.total)
        yield from (failures, trips, answers)
