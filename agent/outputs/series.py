"""Task series of the metrics: growths added up by names, never by addresses, and never more than a given number."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from agent.model.flow import Flow

OVERFLOW = "_overflow"
LABELS = ("namespace", "dag_id", "task_id", "service_account", "peer", "direction")


@dataclass(slots=True)
class TaskTotals:
    """Since this agent started."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    connections: int = 0


Key = tuple[str, ...]
"""Values of LABELS."""


class TaskSeries:
    """A series that found room keeps it: counters do not go backwards, and one in the overflow stays in it."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._totals: dict[Key, TaskTotals] = {}
        self.overflowed = 0  # growths that were added to the overflow series

    def add(self, flows: Iterable[Flow]) -> None:
        with self._lock:
            for flow in flows:
                totals, counts = self._series(flow), flow.counts
                totals.sent_bytes += counts.sent_bytes
                totals.received_bytes += counts.received_bytes
                totals.sent_packets += counts.sent_packets
                totals.received_packets += counts.received_packets
                totals.connections += counts.connections

    def snapshot(self) -> dict[Key, TaskTotals]:
        """A copy, for another thread."""
        with self._lock:
            return {
                key: TaskTotals(
                    t.sent_bytes, t.received_bytes, t.sent_packets, t.received_packets, t.connections
                )
                for key, t in self._totals.items()
            }  # fmt: skip

    def _series(self, flow: Flow) -> TaskTotals:
        identity, direction = flow.endpoint.identity, flow.tuple.direction.name.lower()
        key: Key = (
            identity.namespace,
            identity.dag_id,
            identity.task_id,
            identity.service_account,
            flow.peer.name,
            direction,
        )
        known = self._totals.get(key)
        if known is not None:
            return known
        if len(self._totals) >= self._limit:
            key = (*[OVERFLOW] * 5, direction)
            self.overflowed += 1
        return self._totals.setdefault(key, TaskTotals())
