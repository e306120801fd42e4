"""Room for so many streams at once, and so much of the processor for all of them together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.flows.pacing import Purse

STALLED_SECONDS = 10.0
"""A client that has not taken an answer for so long gives its place to who comes."""
RATE, MOST_SECONDS = 0.25, 1.0
"""Of one processor for all clients; what was not spent is saved up to this."""
_PAUSE_SECONDS = 0.02


class Gone(Exception):
    """The client went away while it waited for its turn."""


@dataclass(eq=False, slots=True)
class Place:
    """One stream. `cut` ends it; `stalled_since`: when it began to send what the client has not taken yet."""

    cut: Callable[[], object]
    stalled_since: float | None = None


class Places:
    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self._clock = limit, clock
        self._taken: set[Place] = set()
        self._lock = threading.Lock()

    def enter(self, cut: Callable[[], object]) -> Place | None:
        """None where all are taken by clients that take what they get."""
        place, slowest = Place(cut), None
        with self._lock:
            if len(self._taken) >= self.limit:
                slowest = min(self._taken, key=lambda each: each.stalled_since or float("inf"))
                since = slowest.stalled_since
                if since is None or self._clock() - since < STALLED_SECONDS:
                    return None
                self._taken.discard(slowest)
            self._taken.add(place)
        if slowest is not None:
            slowest.cut()
        return place

    def leave(self, place: Place) -> None:
        with self._lock:
            self._taken.discard(place)

    def sends(self, place: Place) -> None:
        place.stalled_since = self._clock()

    def sent(self, place: Place) -> None:
        place.stalled_since = None


class Turns:
    """The purse of all clients: what one spends the others wait for, and the agent's own work does not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._purse = Purse(RATE, MOST_SECONDS, MOST_SECONDS, clock())
        self._lock = threading.Lock()

    def pacer(self, alive: Callable[[], bool]) -> Callable[[], None]:
        """For one stream, in one thread: called before each piece of work, pays for the one before. Raises Gone."""
        spent = time.thread_time()

        def pace() -> None:
            nonlocal spent
            now = time.thread_time()
            self._pay(now - spent)
            spent = now
            while not self._may():
                if not alive():
                    raise Gone
                time.sleep(_PAUSE_SECONDS)

        return pace

    def _pay(self, seconds: float) -> None:
        with self._lock:
            self._purse.left -= seconds

    def _may(self) -> bool:
        with self._lock:
            return self._purse.may_spend(self._clock())
