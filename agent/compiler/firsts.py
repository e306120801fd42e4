"""The first of many that holds a port, in the time of a bisection."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import groupby
from typing import Generic, TypeVar

from agent.compiler.ports import Ports
from agent.model.want import PortIndex

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Firsts(Generic[T]):
    """A step function: from each of `starts` on, this one comes first; None: nobody holds the port."""

    starts: tuple[PortIndex, ...]
    found: tuple[T | None, ...]

    @classmethod
    def of(cls, things: Iterable[tuple[Ports, T]]) -> Firsts[T]:
        """Of these, in their order."""
        every = list(things)
        begins = sorted((low, high, i) for i, (ports, _) in enumerate(every) for low, high in ports)
        ends = sorted({high + 1 for _, high, _ in begins})
        cuts = groupby(sorted([*begins, *((end, -1, -1) for end in ends)]), key=lambda each: each[0])
        open_: list[tuple[int, PortIndex]] = []  # position and last port, the first position on top
        starts: list[PortIndex] = [0]
        found: list[T | None] = [None]
        for cut, begin in cuts:
            for _, high, i in begin:
                if i >= 0:
                    heappush(open_, (i, high))
            while open_ and open_[0][1] < cut:
                heappop(open_)
            starts.append(cut)
            found.append(every[open_[0][0]][1] if open_ else None)
        return cls(tuple(starts), tuple(found))

    def at(self, port: PortIndex) -> T | None:
        return self.found[bisect_right(self.starts, port) - 1]
