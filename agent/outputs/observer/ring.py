"""The last flows, for whoever asks for them or follows: one ring, and a place in it for each follower.

What was overwritten before a slow follower came is lost to it alone, and counted.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from agent.outputs.hubble import Seen, lines_in

FOLLOWED = 16_384
"""What a follower may be behind: more than one drain of a busy node."""

Entry = tuple[Seen, int]
"""A report, and which of its lines."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a follower gets: `lost` were overwritten before; `place` is where it goes on."""

    entries: Sequence[Entry]
    place: int
    lost: int


class Ring:
    """Any thread. `kept`: how many flows are there for questions; the ring is longer where followers need it."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self._slots: list[Entry] = []  # full: number n is at n modulo the length
        self._size = max(kept, FOLLOWED)
        self._seen, self._open = 0, True
        self._changed = threading.Condition()

    def add(self, seen: Sequence[Seen]) -> None:
        entries = [(each, part) for each in seen for part in range(lines_in(each))]
        with self._changed:
            for entry in entries:
                if self._seen < self._size:
                    self._slots.append(entry)
                else:
                    self._slots[self._seen % self._size] = entry
                self._seen += 1
            self._changed.notify_all()

    @property
    def seen(self) -> int:
        """Since the start; the place of whoever wants what comes from now on."""
        return self._seen

    def __len__(self) -> int:
        return min(self._seen, self.kept)

    def last(self) -> tuple[list[Entry], int]:
        """All that is kept, as it came, and the place after it."""
        with self._changed:
            return self._between(self._seen - len(self), self._seen), self._seen

    def after(self, place: int, most: int, timeout_seconds: float) -> Taken:
        """At most `most` entries from a place on; none after the timeout, or when closed or woken."""
        with self._changed:
            if place == self._seen and self._open:
                self._changed.wait(timeout_seconds)
            first = max(place, self._seen - self._size)
            after = min(first + most, self._seen)
            return Taken(self._between(first, after), after, lost=first - place)

    @property
    def open(self) -> bool:
        return self._open

    def wake(self) -> None:
        """Who waits looks around."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _between(self, first: int, after: int) -> list[Entry]:
        return [self._slots[number % self._size] for number in range(first, after)]
