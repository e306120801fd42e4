"""The memory that all objects of a source may take together, and who may take how much of it (P17).

Counted while objects are read, before they are kept anywhere. Shares as in agent/compiler/shares.py, but in the order
in which objects come: what is in force stays, and what finds no room is refused by name.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from agent.compiler.shares import LITTLE, OF_NAMESPACE, OF_OBJECT, RESERVE, Excess
from agent.errors import NoRoom
from agent.parse.objects import ObjectName

ROOM_BYTES = 96_000_000
"""What is left of the DaemonSet's 512 MiB beside the agent itself and the worst that the compiler may take
(docs/worst.md). A pod takes 3 kB."""


@dataclass(slots=True)
class Room:
    """Any thread. Whoever holds objects, a kind of the API or a file, has a name."""

    limit: int = ROOM_BYTES
    freed: int = 0  # how often something has gone, or become less
    _held: dict[str, dict[ObjectName, int]] = field(default_factory=dict)
    _namespaces: Counter[str] = field(default_factory=Counter)
    _beyond: int = 0  # what namespaces have beyond the little that each may have
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, holder: str, name: ObjectName, weight: int, *, forced: bool = False) -> None:
        """The object weighs this now. Raises NoRoom; then it weighs what it did before. `forced`: it is in force."""
        with self._lock:
            held = self._held.setdefault(holder, {})
            before = held.get(name, 0)
            excess = None if forced or weight <= before else self._excess(name, weight, before)
            if excess is not None:
                problem = f"{excess.sentence('bytes of memory')}; {_stays(before)}"
                raise NoRoom(str(name), "", problem)
            held[name] = weight
            self._add(_space(name), weight - before)

    def leave(self, holder: str, name: ObjectName) -> None:
        """The object has gone."""
        with self._lock:
            self._add(_space(name), -self._held.get(holder, {}).pop(name, 0))

    def keep(self, holder: str, names: Collection[ObjectName]) -> None:
        """All others of this holder have gone."""
        for name in [name for name in self._held.get(holder, {}) if name not in names]:
            self.leave(holder, name)

    def _add(self, space: str, more: int) -> None:
        little, had = self.limit // LITTLE, self._namespaces[space]
        self._namespaces[space] += more
        self._beyond += max(had + more - little, 0) - max(had - little, 0)
        self.freed += more < 0
        if not self._namespaces[space]:
            del self._namespaces[space]

    def _excess(self, name: ObjectName, weight: int, before: int) -> Excess | None:
        """The first quota that it would break."""
        space, limit = _space(name), self.limit
        had = self._namespaces[space]
        now, kept = had - before + weight, limit - limit // RESERVE
        little = limit // LITTLE
        beyond = self._beyond + max(now - little, 0) - max(had - little, 0)
        whose = f"the objects of namespace {space}" if space else "the cluster's objects"
        for quota, broken, of in (
            (limit // OF_OBJECT, weight > limit // OF_OBJECT, "one object"),
            (limit // OF_NAMESPACE, now > limit // OF_NAMESPACE, whose),
            (kept, now > little and beyond > kept, f"all that have more than {little:,} together"),
            (limit, self._namespaces.total() - before + weight > limit, "this node"),
        ):
            if broken:
                return Excess(weight, quota, of)
        return None


def _space(name: ObjectName) -> str:
    """A namespace's own object counts among what is in it."""
    return name.name if name.kind == "Namespace" else name.namespace


def _stays(before: int) -> str:
    return "the version before stays in force" if before else "no version of it is in force"
