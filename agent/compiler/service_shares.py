"""Services and endpoint slices: whoever may write them fills map `hosts`, and gives addresses their atoms (P17).

Of a refused one the version before stays; one that never had any is not there: its addresses are unknown ones. Where
a slice is refused, a NetworkPolicy allows no connection to the addresses of its service (P13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.compiler.shares import (
    OF_NAMESPACE,
    OF_OBJECT,
    Excess,
    blamed,
    by_namespace,
    excess,
    leaves_no_room,
)
from agent.errors import InvalidObject, TooMuch
from agent.model.changes import Changes
from agent.model.cluster import Address, Cluster, EndpointSlice, Name, Service
from agent.model.policy import PolicyRef

PLACES = 600_000
"""Ports of services at their addresses and endpoints, as many as the compiler can do in a few seconds."""
ADDRESSES, AT_PORTS = "addresses in map hosts", "ports at addresses"
_TABLES = {"Service": "services", "EndpointSlice": "slices"}
Piece = Service | EndpointSlice


@dataclass(frozen=True, slots=True)
class Refused:
    """A version that is not taken, and why."""

    version: Piece
    error: InvalidObject


@dataclass(frozen=True, slots=True)
class Size:
    """`places`: ports at addresses."""

    addresses: int
    places: int


@dataclass(slots=True)
class ServiceShares:
    """`hosts`: entries that map `hosts` has room for. One thread."""

    hosts: int = 100_000
    refused: dict[PolicyRef, Refused] = field(default_factory=dict)
    _found_later: dict[PolicyRef, Refused] = field(default_factory=dict)
    _sizes: dict[PolicyRef, Size] = field(default_factory=dict)
    _touched: set[PolicyRef] = field(default_factory=set)  # refused, or no more, since a snapshot was taken
    _seen: Cluster = field(default_factory=Cluster)
    _taken: Cluster = field(default_factory=Cluster)

    def admit(self, cluster: Cluster, changes: Changes) -> Changes:
        """Judges the services and slices of this snapshot. `changes` with those that are refused now, or no more."""
        before, self._seen = self._seen, cluster
        if changes.everything_else:
            names = _differing(before, cluster)
        else:
            names = [*_refs("Service", changes.services), *_refs("EndpointSlice", changes.slices)]
        if not names:
            return changes | _changes(self._touched)
        for ref in names:
            self._measure(ref, _piece(cluster, ref))
        was, self.refused = self.refused, {}
        if any(_piece(cluster, ref) is None for ref in names):
            self._found_later.clear()  # one has gone: what was refused beside it may fit
        self._found_later = {r: each for r, each in self._found_later.items() if _piece(cluster, r) == each.version}
        self.refused |= self._found_later
        self._share_all(cluster)
        self._touched |= was.keys() | self.refused.keys()
        return changes | _changes(self._touched)

    def too_much(self, cluster: Cluster, found: TooMuch) -> bool:
        """Refuses what has more addresses than was foreseen; False where it is something else, or all is in force."""
        if found.what != ADDRESSES:
            return False
        needs = self._left(lambda size: size.addresses)
        over = blamed(needs, found.over, found.limit, self._in_force(cluster, needs))
        self.refuse(cluster, over, ADDRESSES)
        return bool(over)

    def refuse(self, cluster: Cluster, over: Mapping[PolicyRef, Excess], what: str) -> None:
        """What only the work has shown."""
        self._refuse(cluster, over, what)
        self._found_later |= {ref: self.refused[ref] for ref in over if ref in self.refused}
        self._touched |= over.keys()

    def substituted(self, cluster: Cluster) -> Cluster:
        if not self.refused:
            return cluster
        tables = {table: getattr(cluster, table).mutate() for table in _TABLES.values()}
        for ref in self.refused:
            table, name = _TABLES[ref.kind], (ref.namespace, ref.name)
            if name in tables[table]:
                known = _piece(self._taken, ref)
                if isinstance(tables[table][name], EndpointSlice):
                    tables[table][name] = _cut(tables[table][name], known)
                elif known is None:
                    del tables[table][name]
                else:
                    tables[table][name] = known
        return replace(cluster, **{table: mutation.finish() for table, mutation in tables.items()})

    def took(self, admitted: Cluster) -> None:
        """What was taken of refused slices is the version before, if any: not what stands in for them."""
        slices = admitted.slices.mutate()
        for ref in self.refused:
            name, before = (ref.namespace, ref.name), _piece(self._taken, ref)
            if ref.kind == "EndpointSlice" and isinstance(before, EndpointSlice):
                slices[name] = before
            elif ref.kind == "EndpointSlice":
                slices.pop(name, None)
        self._taken = replace(admitted, slices=slices.finish())
        self._touched.clear()

    def errors(self) -> tuple[InvalidObject, ...]:
        return tuple(refused.error for _, refused in sorted(self.refused.items()))

    def _measure(self, ref: PolicyRef, piece: Piece | None) -> None:
        self._sizes.pop(ref, None)
        if piece is not None:
            self._sizes[ref] = _size(piece)

    def _share_all(self, cluster: Cluster) -> None:
        limit = max(self.hosts - _count_of_others(cluster), 0)
        needs = self._left(lambda size: size.addresses)
        if not _harmless(needs, limit):
            self._share(cluster, _counted_once(cluster, needs, limit), limit, ADDRESSES)
        places = self._left(lambda size: size.places)
        if not _harmless(places, PLACES):
            self._share(cluster, places, PLACES, AT_PORTS)

    def _left(self, of: Callable[[Size], int]) -> dict[PolicyRef, int]:
        return {ref: of(size) for ref, size in self._sizes.items() if ref not in self.refused}

    def _share(self, cluster: Cluster, needs: Mapping[PolicyRef, int], limit: int, what: str) -> None:
        self._refuse(cluster, excess(needs, limit, self._in_force(cluster, needs)), what)

    def _in_force(self, cluster: Cluster, refs: Iterable[PolicyRef]) -> set[PolicyRef]:
        return {ref for ref in refs if _piece(self._taken, ref) == _piece(cluster, ref)}

    def _refuse(self, cluster: Cluster, found: Mapping[PolicyRef, Excess], what: str) -> None:
        for ref, over in found.items():
            piece = _piece(cluster, ref)
            if piece is None:
                continue
            known = _piece(self._taken, ref) is not None
            stays = "the version before stays in force" if known else "no version of it is in force"
            self.refused[ref] = Refused(piece, InvalidObject(str(ref), "", f"{over.sentence(what)}; {stays}"))


def _harmless(needs: Mapping[PolicyRef, int], limit: int) -> bool:
    """Is no quota broken, even if every address is counted as often as it is written?"""
    left = by_namespace(needs.items())
    greatest = max(needs.values(), default=0)
    of_one = greatest <= limit // OF_OBJECT and max(left.values(), default=0) <= limit // OF_NAMESPACE
    return of_one and not leaves_no_room(left, limit)


def _counted_once(cluster: Cluster, needs: Mapping[PolicyRef, int], limit: int) -> dict[PolicyRef, int]:
    """Each address once in a namespace, and not where a pod or node has it: that has its entry anyway. Beyond the
    limit nobody need know exactly."""
    seen, reserved = dict[str, set[Address]](), set(_of_others(cluster))
    found: dict[PolicyRef, int] = {}
    for ref in sorted(needs):
        known, piece = seen.setdefault(ref.namespace, set()), _piece(cluster, ref)
        if piece is None or len(known) > limit:
            found[ref] = needs[ref]
            continue
        new = set(_addresses(piece)) - known - reserved
        found[ref] = len(new)
        known |= new
    return found


def _cut(refused: EndpointSlice, known: Piece | None) -> EndpointSlice:
    """The version before, or none of the endpoints: that there are others counts, because a NetworkPolicy allows a
    service's address only if all of them may be reached (P13)."""
    before = known if isinstance(known, EndpointSlice) else replace(refused, addresses=(), waiting=frozenset())
    return replace(before, service=refused.service, cut=True)


def _addresses(piece: Piece) -> Iterator[Address]:
    yield from piece.addresses
    if isinstance(piece, Service):
        yield from piece.external


def _size(piece: Piece) -> Size:
    count = len(piece.addresses) + (len(piece.external) if isinstance(piece, Service) else 0)
    return Size(count, count * (1 + len(piece.ports)))


def _of_others(cluster: Cluster) -> Iterator[Address]:
    """Of pods, nodes and settings."""
    yield from (*cluster.settings.host_addresses, *cluster.settings.dns_addresses)
    yield from (address for node in cluster.nodes.values() for address in node.addresses)
    yield from (address for pod in cluster.pods.values() for address in pod.addresses)


def _count_of_others(cluster: Cluster) -> int:
    return sum(1 for _ in _of_others(cluster))


def _differing(before: Cluster, now: Cluster) -> list[PolicyRef]:
    return [
        ref
        for kind, table in _TABLES.items()
        if getattr(before, table) is not getattr(now, table)
        for ref in _refs(kind, {*getattr(before, table), *getattr(now, table)})
        if _piece(before, ref) is not _piece(now, ref)
    ]


def _refs(kind: str, names: Iterable[Name]) -> list[PolicyRef]:
    return [PolicyRef(namespace, kind, name) for namespace, name in names]


def _piece(cluster: Cluster, ref: PolicyRef) -> Piece | None:
    found: Any = getattr(cluster, _TABLES[ref.kind]).get((ref.namespace, ref.name))
    return found if isinstance(found, Service | EndpointSlice) else None


def _changes(refs: Iterable[PolicyRef]) -> Changes:
    by_kind = {kind: frozenset((r.namespace, r.name) for r in refs if r.kind == kind) for kind in _TABLES}
    return Changes(services=by_kind["Service"], slices=by_kind["EndpointSlice"])
