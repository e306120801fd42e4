"""Numbers for contents: the same content has the same number in every agent, so that a restart renumbers nothing.

A number is a hash of the content's text. Two contents that meet in one number are told apart by order of arrival;
with 10,000 contents that happens to one node in 40, and then costs a restart a few rewritten entries, not a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterator
from hashlib import blake2b
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


def stable_number(text: str, first: int, taken: Container[int], bits: int = 31) -> int:
    """A number of `bits` bits that follows from `text` alone unless it is taken; never below `first`."""
    number = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") & ((1 << bits) - 1)
    while number < first or number in taken:
        number = (number + 1) & ((1 << bits) - 1)
    return number


class Interner(Generic[K]):
    """Gives equal contents one number, which stays while anybody refers to it.

    A number that became free is not given to another content before `commit`, since the kernel applies a delta's
    additions first.
    """

    def __init__(self, first: int, text: Callable[[K], str]) -> None:
        self.numbers: dict[K, int] = {}
        self._text = text
        self._counts: dict[K, int] = {}
        self._before: dict[K, int | None] = {}  # of this step: the number that a content had when it began
        self._taken: dict[int, K] = {}
        self._first = first

    def acquire(self, key: K) -> int:
        count = self._counts.get(key, 0)
        self._counts[key] = count + 1
        if count:
            return self.numbers[key]
        number = self._before.setdefault(key, None)
        if number is None:
            number = stable_number(self._text(key), self._first, self._taken)
        self.numbers[key], self._taken[number] = number, key
        return number

    def release(self, key: K) -> None:
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
            return
        del self._counts[key]
        number = self.numbers.pop(key)
        if self._before.setdefault(key, number) is None:
            del self._before[key]  # born and dead in one step: nobody has seen it
            del self._taken[number]

    def born(self) -> Iterator[tuple[K, int]]:
        """Contents of this step that had no number when it began."""
        return ((k, self.numbers[k]) for k, before in self._before.items() if before is None)

    def dead(self) -> Iterator[tuple[K, int]]:
        """Contents that lost their number in this step."""
        return ((k, before) for k, before in self._before.items() if before is not None and k not in self.numbers)

    def commit(self) -> None:
        """Ends a step: numbers of what died in it are free."""
        for _, number in list(self.dead()):
            del self._taken[number]
        self._before.clear()
