"""Writes to Want that remember what was there before, so that a step's Delta falls out of them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ChangeLog(Generic[K, V]):
    """One mapping of Want. None stands for absence. A step may have several parts, each with a delta of its own."""

    def __init__(self, entries: dict[K, V]) -> None:
        self.entries = entries
        self.before: dict[K, V | None] = {}  # of what was written since `commit`
        self._before_part: dict[K, V | None] = {}

    def put(self, key: K, value: V | None) -> None:
        old = self.entries.get(key)
        if old == value:
            return
        self.before.setdefault(key, old)
        self._before_part.setdefault(key, old)
        if value is None:
            del self.entries[key]
        else:
            self.entries[key] = value

    def delta(self) -> dict[K, V | None]:
        """What is different now from what was at the last `commit`."""
        return self._differing(self.before)

    def part(self) -> dict[K, V | None]:
        """What is different now from what was at the last `part` or `commit`."""
        different, self._before_part = self._differing(self._before_part), {}
        return different

    def commit(self) -> None:
        self.before, self._before_part = {}, {}

    def _differing(self, before: dict[K, V | None]) -> dict[K, V | None]:
        now = self.entries
        return {key: now.get(key) for key, old in before.items() if now.get(key) != old}
