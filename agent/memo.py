"""Answers that follow from their questions alone, kept so that equal questions are worked out once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 50_000
"""A label that is different in every pod, such as run_id, must not make it grow without end."""


class Memo(Generic[K, V]):
    """One thread. All answers go when it is full: counting their use would cost more than working them out again."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: K, make: Callable[[], V]) -> V:
        try:
            return self._known[key]
        except KeyError:
            pass
        made = make()
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[key] = made
        return made
