"""How much of a thread's time one endpoint, and all of them, may take."""

from __future__ import annotations

from dataclasses import dataclass


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
