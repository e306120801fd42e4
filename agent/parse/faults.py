"""All faults of one object at once: whoever mends an object wants to hear of each, not of the next one each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from agent.errors import InvalidObject
from agent.parse.fields import Field

MOST = 10
"""Faults that are named; of the others their number."""
T = TypeVar("T")


@dataclass(slots=True)
class Faults:
    """Parts are read one after the other; where one is wrong the others are read all the same."""

    found: list[InvalidObject] = field(default_factory=list)

    def read(self, part: Callable[[], T], otherwise: T) -> T:
        """What `part` returns, or `otherwise` where it raises InvalidObject, which is kept."""
        try:
            return part()
        except InvalidObject as exc:
            self.found.append(exc)
            return otherwise

    def read_each(self, items: Iterable[Field], part: Callable[[Field, int], T]) -> tuple[T, ...]:
        """`part` of each item and its index, without those where it raises InvalidObject, which is kept."""
        out = []
        for index, item in enumerate(items):
            try:
                out.append(part(item, index))
            except InvalidObject as exc:
                self.found.append(exc)
        return tuple(out)

    def report(self) -> None:
        """Raises one InvalidObject for all, at the first one's field; returns where nothing is wrong."""
        if not self.found:
            return
        first, *others = self.found
        told = [f"{fault.field}: {fault.problem}" if fault.field else fault.problem for fault in others[: MOST - 1]]
        more = [f"and {len(self.found) - MOST} faults more"] if len(self.found) > MOST else []
        raise InvalidObject(first.obj, first.field, "; ".join([first.problem, *told, *more]))
