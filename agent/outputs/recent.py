"""The last flows, denials and failures, for `dagwall flows` and `why`. Bounded, and safe between threads."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from agent.model.flow import Denial, FailedLookup, Flow, Outcome, Tuple
from agent.model.verdict import Direction, Verdict
from agent.outputs.output import Output
from agent.outputs.records import Filter, Seen


class Wanted(Protocol):
    """Which ones somebody asks for."""

    def matches(self, seen: Seen) -> bool: ...


Failed = Denial | FailedLookup | Outcome
Key = tuple[str, Tuple]
FLOWS = 8192
DENIALS = 4096
LOOKUPS = 2048
OUTCOMES = 4096
QUEUE = 4096


class Subscription:
    """What one follower has not read yet. A follower that is too slow loses the oldest, and is told how many."""

    def __init__(self, wanted: Wanted, size: int) -> None:
        self.wanted = wanted
        self._queue: deque[Seen] = deque()
        self._size, self._lost, self._closed = size, 0, False
        self._changed = threading.Condition()

    def offer(self, seen: Iterable[Seen]) -> int:
        """How many were lost by it."""
        matching = [each for each in seen if self.wanted.matches(each)]
        with self._changed:
            self._queue.extend(matching)
            lost = max(0, len(self._queue) - self._size)
            for _ in range(lost):
                self._queue.popleft()
            self._lost += lost
            self._changed.notify_all()
        return lost

    def take(self, timeout_seconds: float) -> tuple[list[Seen], int]:
        """Everything that waits and the number lost before it; empty after the timeout, or when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed, timeout_seconds)
            taken, lost = list(self._queue), self._lost
            self._queue.clear()
            self._lost = 0
        return taken, lost

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _key(seen: Seen) -> Key:
    return seen.endpoint.uid, seen.tuple


def _has_a_flow(denial: Denial) -> bool:
    """A connection that passes in audit: its flow says all of it, with counts, a moment later."""
    return denial.verdict is Verdict.AUDIT and denial.hook.has_peer


def _turned(wanted: Filter, denial: Failed) -> bool:
    return denial.tuple.direction is Direction.INGRESS and wanted.means_peer(denial)


class Recent(Output):
    """Written by the draining thread, read by any. `lost` counts what slow followers did not get.

    What passes in audit is listed once: by its flow, or by the event where no flow of it was reported.
    """

    def __init__(self, *, flows: int = FLOWS, denials: int = DENIALS, queue: int = QUEUE) -> None:
        self._flows: deque[Flow] = deque(maxlen=flows)
        self._denials: deque[Denial] = deque(maxlen=denials)
        self._lookups: deque[FailedLookup] = deque(maxlen=LOOKUPS)
        self._outcomes: deque[Outcome] = deque(maxlen=OUTCOMES)
        self._followers: list[Subscription] = []
        self._audits: deque[Denial] = deque(
            maxlen=queue
        )  # since the last flows: followers get them unless a flow speaks of them
        self._audited: frozenset[Key] = frozenset()  # of the last flows
        self._queue, self._lock = queue, threading.Lock()
        self.lost = 0

    def flows(self, flows: list[Flow]) -> None:
        """What one drain found, also where that is nothing."""
        audited = frozenset(_key(flow) for flow in flows if flow.verdict is Verdict.AUDIT)
        with self._lock:
            self._flows.extend(flows)
            told, self._audited = audited | self._audited, audited
            audits = list(self._audits)
            self._audits.clear()
        self._tell([*(each for each in audits if _key(each) not in told), *flows])

    def denials(self, denials: list[Denial]) -> None:
        with self._lock:
            self._denials.extend(denials)
            self._audits.extend(each for each in denials if _has_a_flow(each))
        self._tell([each for each in denials if not _has_a_flow(each)])

    def lookups(self, lookups: list[FailedLookup]) -> None:
        with self._lock:
            self._lookups.extend(lookups)
        self._tell(lookups)

    def outcomes(self, outcomes: list[Outcome]) -> None:
        """Only those that failed: the others are flows."""
        failed = [each for each in outcomes if each.failed]
        with self._lock:
            self._outcomes.extend(failed)
        self._tell(failed)

    def last(self, wanted: Wanted, count: int) -> list[Seen]:
        """The newest `count` that match, oldest first."""
        with self._lock:
            flows, denials = list(self._flows), list(self._denials)
            others: list[Seen] = [*self._lookups, *self._outcomes]
        audited = {_key(flow) for flow in flows if flow.verdict is Verdict.AUDIT}
        alone = [each for each in denials if not (_has_a_flow(each) and _key(each) in audited)]
        seen: list[Seen] = [*flows, *alone, *others]
        newest = sorted(seen, key=lambda seen: seen.time)[::-1]
        matching = (seen for seen in newest if wanted.matches(seen))
        return list(itertools.islice(matching, count))[::-1]

    def last_failed(self, wanted: Filter) -> list[Failed]:
        """All that are remembered and match, newest first, also those of a peer by its other end's ingress.

        Allowed connections over foreign sockets are none.
        """
        with self._lock:
            failed: list[Failed] = [*self._denials, *self._lookups, *self._outcomes]
        return [
            each
            for each in sorted(failed, key=lambda each: each.time)[::-1]
            if not (isinstance(each, Denial) and each.verdict is Verdict.ALLOW)
            and (wanted.matches(each) or _turned(wanted, each))
        ]

    @contextmanager
    def follow(self, wanted: Wanted) -> Iterator[Subscription]:
        """What comes from now on."""
        subscription = Subscription(wanted, self._queue)
        with self._lock:
            self._followers.append(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                self._followers.remove(subscription)

    def losses(self) -> Mapping[str, int]:
        return {"followers": self.lost}

    def stop(self) -> None:
        """Followers come to their end."""
        with self._lock:
            followers = list(self._followers)
        for follower in followers:
            follower.close()

    def _tell(self, seen: Sequence[Seen]) -> None:
        with self._lock:
            followers = list(self._followers) if seen else []
        for follower in followers:
            self.lost += follower.offer(seen)
