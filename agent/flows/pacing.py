"""How much of a thread's time one endpoint, and all of them, may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

ENDPOINTS = 4096
"""Purses that are kept; with more of them all begin anew."""


@dataclass(slots=True)
class Purse:
    """Seconds of work that may be spent: `rate` of each second, and what was saved, up to `most`."""

    rate: float
    most: float
    left: float
    at: float = 0.0

    def may_spend(self, now: float) -> bool:
        self.left = min(self.most, self.left + (now - self.at) * self.rate)
        self.at = now
        return self.left > 0


@dataclass(slots=True)
class Pace:
    """Shares of a thread's time: of all endpoints together, and of each, told by its slot. `skipped`: refusals.

    `rate` and `most`: of one endpoint, as of a Purse.
    """

    clock: Callable[[], float]
    all: Purse
    rate: float
    most: float
    skipped: int = 0
    _own: dict[int, Purse] = field(default_factory=dict)

    def begins(self, slot: int) -> float | None:
        """The time, for `ends`, where this endpoint may have some work done for it."""
        now, own = self.clock(), self._purse(slot)
        if own.may_spend(now) and self.all.may_spend(now):
            return now
        self.skipped += 1
        return None

    def ends(self, slot: int, began: float) -> None:
        for purse in (self._purse(slot), self.all):
            purse.left -= self.clock() - began

    def _purse(self, slot: int) -> Purse:
        if slot not in self._own and len(self._own) >= ENDPOINTS:
            self._own.clear()
        return self._own.setdefault(slot, Purse(self.rate, self.most, self.most))
