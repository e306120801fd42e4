"""Numbers for contents, counted by reference."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Interner(Generic[K]):
    """Gives equal contents one number, which stays while anybody refers to it.

    A number that became free is not given away before `settle`, since the kernel applies a delta's additions first.
    """

    def __init__(self, first: int) -> None:
        self.numbers: dict[K, int] = {}
        self._counts: dict[K, int] = {}
        self._before: dict[K, int | None] = {}  # of this step: the number that a content had when it began
        self._free: deque[int] = deque()
        self._next = first

    def acquire(self, key: K) -> int:
        count = self._counts.get(key, 0)
        self._counts[key] = count + 1
        if count:
            return self.numbers[key]
        before = self._before.setdefault(key, None)
        if before is None and self._free:
            before = self._free.popleft()
        elif before is None:
            before, self._next = self._next, self._next + 1
        self.numbers[key] = before
        return before

    def release(self, key: K) -> None:
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
            return
        del self._counts[key]
        number = self.numbers.pop(key)
        if self._before.setdefault(key, number) is None:
            del self._before[key]  # born and dead in one step: nobody has seen it
            self._free.append(number)

    def born(self) -> Iterator[tuple[K, int]]:
        """Contents of this step that had no number when it began."""
        return ((k, self.numbers[k]) for k, before in self._before.items() if before is None)

    def dead(self) -> Iterator[tuple[K, int]]:
        """Contents that lost their number in this step."""
        return ((k, before) for k, before in self._before.items() if before is not None and k not in self.numbers)

    def settle(self) -> None:
        """Ends a step: what died in it may be numbered anew."""
        self._free.extend([number for _, number in self.dead()])
        self._before.clear()
