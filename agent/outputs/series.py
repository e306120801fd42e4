"""Task series of the metrics: growths added up by names, never by addresses, and never more than a given number."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from agent.model.flow import FailedLookup, Flow

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


GONE_SECONDS = 3600.0
"""How long the series of an identity outlive its last endpoint: some scrapes, and the next run of most DAGs."""


class Room:
    """Which series have room; a key begins with its namespace. What found room keeps it: no counter goes backwards.

    A namespace takes as many series as it leaves to others, so that one tenant never takes everybody's (S1).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: set[Key] = set()
        self._used: Counter[str] = Counter()  # by namespace

    def take(self, key: Key) -> bool:
        """Has this series room?"""
        if key not in self._keys and self._used[key[0]] >= self._limit - len(self._keys):
            return False
        self._used[key[0]] += key not in self._keys
        self._keys.add(key)
        return True

    def give_back(self, keys: Iterable[Key]) -> None:
        for key in self._keys.intersection(keys):
            self._keys.remove(key)
            self._used[key[0]] -= 1

    def keep(self, keys: Collection[Key]) -> None:
        """Only these are left."""
        self.give_back(self._keys.difference(keys))


class Gone:
    """Identities (the first four of LABELS) that have no endpoint any more, and since when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.since: dict[Key, float] = {}

    def update(self, known: Iterable[Key], here: Collection[Key]) -> set[Key]:
        """`here`: those that have endpoints. Of the others those whose time is over; they are forgotten here."""
        now = self._clock()
        self.since = {who: self.since.get(who, now) for who in known if who not in here and OVERFLOW not in who}
        over = {who for who, since in self.since.items() if now - since > GONE_SECONDS}
        for who in over:
            del self.since[who]
        return over


class LookupSeries:
    """Names that were asked for in vain, by identity and what the server answered; bounded as the task series are."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._room, self._lock, self._gone = Room(limit), threading.Lock(), Gone(clock)
        self._counts: Counter[Key] = Counter()

    def add(self, lookups: Iterable[FailedLookup]) -> None:
        with self._lock:
            for each in lookups:
                who = each.endpoint.identity
                key = (who.namespace, who.dag_id, who.task_id, who.service_account, each.rcode)
                self._counts[key if self._room.take(key) else (*[OVERFLOW] * 4, each.rcode)] += 1

    def snapshot(self) -> dict[Key, int]:
        with self._lock:
            return dict(self._counts)

    def forget(self, here: Collection[Key]) -> None:
        """As TaskSeries does."""
        with self._lock:
            over = self._gone.update({key[:4] for key in self._counts}, here)
            keys = [key for key in self._counts if key[:4] in over]
            for key in keys:
                del self._counts[key]
            self._room.give_back(keys)


class TaskSeries:
    """A series keeps its room while its identity is here, and where room is left for GONE_SECONDS longer."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._room, self._lock, self._gone = Room(limit), threading.Lock(), Gone(clock)
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

    def forget(self, here: Collection[Key]) -> None:
        """`here`: identities (the first four of LABELS) that have endpoints. Series of others go, after a while."""
        with self._lock:
            self._drop(self._gone.update({key[:4] for key in self._totals}, here))

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
        if not self._room.take(key) and not (self._make_room(identity.namespace) and self._room.take(key)):
            key = (*[OVERFLOW] * 5, direction)
            self.overflowed += 1
        return self._totals.setdefault(key, TaskTotals())

    def _make_room(self, namespace: str) -> bool:
        """Of identities that have gone, and whose last totals were scraped, half go: of the namespace that needs room
        if it has any, else of all; those that have been gone longest."""
        since = self._gone.since
        own = [who for who in since if who[0] == namespace]
        gone = sorted(own or since, key=since.__getitem__)
        self._drop(set(gone[: (len(gone) + 1) // 2]))
        return bool(gone)

    def _drop(self, identities: Collection[Key]) -> None:
        keys = [key for key in self._totals if key[:4] in identities]
        for key in keys:
            del self._totals[key]
        self._room.give_back(keys)
        for who in identities:
            self._gone.since.pop(who, None)
