"""Writes to Want that remember what was there before, so that a step's Delta falls out of them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Tracked(Generic[K, V]):
    """One mapping of Want. None stands for absence."""

    def __init__(self, entries: dict[K, V]) -> None:
        self.entries = entries
        self.before: dict[K, V | None] = {}  # of what was written since `settle`

    def put(self, key: K, value: V | None) -> None:
        old = self.entries.get(key)
        if old == value:
            return
        self.before.setdefault(key, old)
        if value is None:
            del self.entries[key]
        else:
            self.entries[key] = value

    def delta(self) -> dict[K, V | None]:
        """What is different now from what was at the last `settle`."""
        now = self.entries
        return {key: now.get(key) for key, old in self.before.items() if now.get(key) != old}

    def settle(self) -> None:
        self.before = {}
