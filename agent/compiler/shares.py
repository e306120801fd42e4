"""Who gets what of what a node has only so much of: quotas for an object, a namespace, and the node (P17)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

OF_OBJECT, OF_NAMESPACE, RESERVE, LITTLE = 4, 2, 4, 256
"""One object may have a quarter of what there is, those of one namespace half of it. A quarter is kept for namespaces
that have little, which is a 256th of it or less: what all others have beyond that must fit into the rest."""


class Ref(Protocol):
    """An object's name. Objects of the cluster have an empty namespace."""

    @property
    def namespace(self) -> str: ...

    def __lt__(self, other: Any, /) -> bool: ...

    def __hash__(self) -> int: ...


R = TypeVar("R", bound=Ref)


@dataclass(frozen=True, slots=True)
class Excess:
    """What an object needs, and the quota that it breaks."""

    need: int
    quota: int
    whose: str  # "one object", "the objects of namespace etl", "this node"

    def sentence(self, what: str) -> str:
        return f"is too big: it needs {self.need:,} {what}, {self.whose} may have {self.quota:,}"


def little(limit: int) -> int:
    """What a namespace has of the reserve, whatever the others have."""
    return limit // LITTLE


def by_namespace(needs: Iterable[tuple[R, int]]) -> Counter[str]:
    found = Counter[str]()
    for ref, need in needs:
        found[ref.namespace] += need
    return found


def leaves_no_room(left: Counter[str], limit: int) -> bool:
    """Is this, by namespace, too much together, or does it leave no reserve?"""
    return left.total() > limit or _beyond(left, limit)


def excess(needs: Mapping[R, int], limit: int, in_force: Collection[R]) -> dict[R, Excess]:
    """Objects to refuse so that the others fit: of the greediest namespace first, in it the greatest object first.

    What is in force already is never refused, since without it more might pass. Same input, same answer.
    """
    return _Shares(needs, limit, in_force).refused()


def each_by_itself(needs: Mapping[R, int], limit: int, in_force: Collection[R]) -> dict[R, Excess]:
    """The same where every namespace has a limit of its own, because what it needs costs only beside itself."""
    shares = _Shares(needs, limit, in_force)
    shares.of_objects()
    shares.of_namespaces()
    return shares.found


def blamed(needs: Mapping[R, int], over: int, limit: int, in_force: Collection[R]) -> dict[R, Excess]:
    """Objects to refuse where it has been counted that all is `over` the limit, and the estimates were too low: of
    whoever has most, until that is made up for, at least one; none where all of them are in force."""
    shares = _Shares(needs, limit, in_force)
    counted, estimated = limit + over, max(sum(needs.values()), 1)
    while over > 0 and (namespace := shares.greediest(0)) is not None:
        over -= max(shares.refuse(namespace, limit, "this node") * counted // estimated, 1)
    return shares.found


def beside_others(needs: Mapping[R, int], limit: int, in_force: Collection[R]) -> dict[R, Excess]:
    """As `excess` of what has been counted: no quota for one object, nor for all together."""
    shares = _Shares(needs, limit, in_force)
    shares.of_namespaces()
    shares.of_reserve()
    return shares.found


class _Shares:
    """What is left as objects are refused one after the other."""

    def __init__(self, needs: Mapping[R, int], limit: int, in_force: Collection[R]) -> None:
        self.found: dict[Any, Excess] = {}
        self._limit = limit
        self._left = by_namespace(needs.items())
        self._open: dict[str, list[tuple[int, Any]]] = {}  # the greatest last
        greatest_first = sorted((-need, ref) for ref, need in needs.items() if need and ref not in in_force)
        for negative, ref in reversed(greatest_first):
            self._open.setdefault(ref.namespace, []).append((-negative, ref))

    def refused(self) -> dict[Any, Excess]:
        self.of_objects()
        self.of_namespaces()
        limit = self._limit
        while self._left.total() > limit and (namespace := self.greediest(0)) is not None:
            self.refuse(namespace, limit, "this node")
        self.of_reserve()
        return self.found

    def of_reserve(self) -> None:
        limit = self._limit
        kept = limit - limit // RESERVE
        whose = f"all that have more than {little(limit):,} together"
        while _beyond(self._left, limit) and (namespace := self.greediest(little(limit))) is not None:
            self.refuse(namespace, kept, whose)

    def of_objects(self) -> None:
        quota = self._limit // OF_OBJECT
        for namespace in sorted(self._open):
            while self._open.get(namespace) and self._open[namespace][-1][0] > quota:
                self.refuse(namespace, quota, "one object")

    def of_namespaces(self) -> None:
        quota = self._limit // OF_NAMESPACE
        for namespace in sorted(self._left):
            whose = f"the objects of namespace {namespace}" if namespace else "the cluster's policies"
            while self._left[namespace] > quota and self._open.get(namespace):
                self.refuse(namespace, quota, whose)

    def greediest(self, more_than: int) -> str | None:
        """Of the namespaces that have something to refuse."""
        found = (namespace for namespace in self._open if self._left[namespace] > more_than)
        return min(found, key=lambda each: (-self._left[each], each), default=None)

    def refuse(self, namespace: str, quota: int, whose: str) -> int:
        """The greatest of a namespace; what that was."""
        need, ref = self._open[namespace].pop()
        if not self._open[namespace]:
            del self._open[namespace]
        self._left[namespace] -= need
        self.found[ref] = Excess(need, quota, whose)
        return need


def _beyond(left: Mapping[str, int], limit: int) -> bool:
    """Do those that have more than little leave no reserve?"""
    most = little(limit)
    return sum(need - most for need in left.values() if need > most) > limit - limit // RESERVE
