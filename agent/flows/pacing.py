"""How much of a thread's time one endpoint, one namespace, and all of them may take (S1).

As agent/compiler/shares.py has it: a namespace may have half of what there is; a quarter is kept for namespaces that
take little, which is a 256th each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.compiler.shares import LITTLE, OF_NAMESPACE, RESERVE

KEPT = 4096
"""Purses of endpoints, and of namespaces, that are kept; with more of them all begin anew."""


@dataclass(slots=True)
class Purse:
    """Seconds of work that may be spent: `rate` of each second, and what was saved, up to `most`."""

    rate: float
    most: float
    left: float
    at: float = 0.0

    @classmethod
    def full(cls, rate: float, most: float) -> Purse:
        return cls(rate, most, most)

    def may_spend(self, now: float) -> bool:
        self.left = min(self.most, self.left + (now - self.at) * self.rate)
        self.at = now
        return self.left > 0


@dataclass(frozen=True, slots=True)
class Begun:
    """Work of somebody, from `at` on, and the purses that pay for it."""

    at: float
    paying: tuple[Purse, ...]


@dataclass(slots=True)
class _Of:
    """Of a namespace: its half, and its little."""

    half: Purse
    little: Purse


@dataclass(slots=True)
class Pace:
    """Shares of a thread's time. `rate`, `most`: of all together, as of a Purse; `own_rate`, `own_most`: of one
    endpoint, told by its slot. `skipped`: refusals."""

    clock: Callable[[], float]
    rate: float
    most: float
    own_rate: float
    own_most: float
    skipped: int = 0
    _common: Purse = field(init=False)
    _reserve: Purse = field(init=False)
    _own: dict[int, Purse] = field(default_factory=dict)
    _namespaces: dict[str, _Of] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reserve = self._part(RESERVE)
        self._common = Purse.full(self.rate - self._reserve.rate, self.most - self._reserve.most)

    def begins(self, slot: int, namespace: str) -> Begun | None:
        """For `ends`, where this endpoint may have some work done for it."""
        now, own, of = self.clock(), self._purse(slot), self._of(namespace)
        if own.may_spend(now) and of.half.may_spend(now):
            for shared in ((of.little, self._reserve), (self._common,)):
                if all(purse.may_spend(now) for purse in shared):
                    return Begun(now, (own, of.half, *shared))
        self.skipped += 1
        return None

    def ends(self, begun: Begun) -> None:
        took = self.clock() - begun.at
        for purse in begun.paying:
            purse.left -= took

    def _part(self, divisor: int) -> Purse:
        return Purse.full(self.rate / divisor, self.most / divisor)

    def _purse(self, slot: int) -> Purse:
        if slot not in self._own and len(self._own) >= KEPT:
            self._own.clear()
        return self._own.setdefault(slot, Purse.full(self.own_rate, self.own_most))

    def _of(self, namespace: str) -> _Of:
        if namespace not in self._namespaces and len(self._namespaces) >= KEPT:
            self._namespaces.clear()
        return self._namespaces.setdefault(namespace, _Of(self._part(OF_NAMESPACE), self._part(LITTLE)))
