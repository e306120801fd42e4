"""What stands behind a service's address, for the layers that judge it there (P13).

Endpoints that no NetworkPolicy tells apart are one kind, and all kinds behind a port are one atom (KindsAtom), which
the ports of a service share: a ruleset looks at each kind once, not at each endpoint for each port.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.compiler.atoms import ANY_ADDRESS, AtomId, AtomTable, BackedAtom, Kind, KindsAtom, Members, PortAtom
from agent.compiler.layers import IndexedTerm, RulePosition
from agent.compiler.ports import covers
from agent.compiler.terms import AtNamedPort, AtPorts
from agent.model.policy import PolicyRef
from agent.model.want import port_index

KNOWN = 1000
"""Kinds that a content has looked at and remembers; with more of them it begins anew."""


@dataclass(slots=True)
class Behind:
    """The atom of a port from the endpoints behind it. For one service; `members`: of an endpoint."""

    table: AtomTable
    members: Mapping[Hashable, Members]  # by endpoint: what NetworkPolicies can ask, and its named ports
    _plain: dict[Hashable, tuple[Kind, frozenset[tuple[int, int]]]] = field(default_factory=dict)
    _known: dict[frozenset[Kind], AtomId] = field(default_factory=dict)

    def atom(self, protocol: int, port: int, ends: Iterable[tuple[Hashable, int]]) -> AtomId:
        """`ends`: endpoints, each with the number at which it serves this port."""
        kinds: dict[int, set[Kind]] = {}
        for endpoint, number in ends:
            kinds.setdefault(number, set()).add(self._kind(endpoint, protocol, number))
        found = ((number, self._number(frozenset(each))) for number, each in kinds.items())
        return self.table.number(BackedAtom(protocol, port, tuple(sorted(found))))

    def _kind(self, endpoint: Hashable, protocol: int, number: int) -> Kind:
        if endpoint not in self._plain:
            members, atoms = self.members[endpoint], self.table.atoms
            named = frozenset((a.protocol, a.number) for a in map(atoms.get, members) if isinstance(a, PortAtom))
            self._plain[endpoint] = tuple(sorted(members & self.table.native)), named
        kind, named = self._plain[endpoint]
        if (protocol, number) not in named:
            return kind
        return tuple(sorted((*kind, *_named(self.table, self.members[endpoint], protocol, number))))

    def _number(self, kinds: frozenset[Kind]) -> AtomId:
        if kinds not in self._known:
            self._known[kinds] = self.table.number(KindsAtom(tuple(sorted(kinds))))
        return self._known[kinds]


def _named(table: AtomTable, members: Iterable[AtomId], protocol: int, port: int) -> Iterator[AtomId]:
    for number in members:
        atom = table.atoms[number]
        if isinstance(atom, PortAtom) and (atom.protocol, atom.number) == (protocol, port):
            yield number


@dataclass(slots=True)
class BackendTerms:
    """What one layer of a content says of endpoints, at `place`. `terms`: those that stand there."""

    place: RulePosition
    table: AtomTable
    terms: tuple[IndexedTerm, ...]
    _asked: frozenset[AtomId] = field(init=False)
    _names: frozenset[tuple[int, str]] = field(init=False)
    _seen: dict[AtomId, frozenset[Members]] = field(default_factory=dict)
    _reaching: dict[BackedAtom, IndexedTerm | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at = [asked.term for asked in self.terms if isinstance(asked.term, AtPorts | AtNamedPort)]
        self._asked = frozenset(term.atom for term in at)
        self._names = frozenset((term.protocol, term.name) for term in at if isinstance(term, AtNamedPort))

    def reaching(self, atom: BackedAtom) -> IndexedTerm | None:
        """The earliest term that lets pass to some endpoint, if every one is reached by some."""
        if atom not in self._reaching:
            if len(self._reaching) >= KNOWN:
                self._reaching.clear()
            self._reaching[atom] = self._found(atom)
        return self._reaching[atom]

    def _found(self, atom: BackedAtom) -> IndexedTerm | None:
        found: list[IndexedTerm] = []
        for number, group in atom.ends:
            hits = self._hits(atom.protocol, number)
            for kind in self._kinds(group):
                reached = [hits[each] for each in (ANY_ADDRESS, *kind) if each in hits]
                reached += self._by_name(kind, atom.protocol, number) if self._names else ()
                if not reached:
                    return None
                found.append(min(reached, key=_position))
        return min(found, key=_position, default=None)

    def needs(self, atom: BackedAtom) -> Counter[PolicyRef]:
        """One row at most: of whoever could be named."""
        named = (term for number, _ in atom.ends for term in self._hits(atom.protocol, number).values())
        first = min(named, key=_position, default=None) or (self.terms[0] if self._names else None)
        return Counter({first.rule.ref.policy: 1}) if first is not None else Counter()

    def _hits(self, protocol: int, number: int) -> dict[AtomId, IndexedTerm]:
        """By atom, the first term that holds at this port."""
        index, hits = port_index(protocol, number), dict[AtomId, IndexedTerm]()
        for asked in self.terms:
            term = asked.term
            if isinstance(term, AtPorts) and term.atom not in hits and covers(term.ports, index):
                hits[term.atom] = asked
        return hits

    def _kinds(self, group: AtomId) -> frozenset[Members]:
        """Those that this layer tells apart."""
        if group not in self._seen:
            if len(self._seen) >= KNOWN:
                self._seen.clear()
            atom, atoms = self.table.atoms[group], self.table.atoms
            assert isinstance(atom, KindsAtom)
            self._seen[group] = frozenset(
                frozenset(each for each in kind if each in self._asked or self._is_asked(atoms[each]))
                for kind in atom.kinds
            )
        return self._seen[group]

    def _is_asked(self, atom: object) -> bool:
        return isinstance(atom, PortAtom) and (atom.protocol, atom.name) in self._names

    def _by_name(self, kind: Members, protocol: int, number: int) -> Iterator[IndexedTerm]:
        atoms = (self.table.atoms[each] for each in kind)
        names = {a.name for a in atoms if isinstance(a, PortAtom) and (a.protocol, a.number) == (protocol, number)}
        for asked in self.terms if names else ():
            term = asked.term
            if not isinstance(term, AtNamedPort) or term.protocol != protocol or term.name not in names:
                continue
            if term.atom == ANY_ADDRESS or term.atom in kind:
                yield asked


def _position(asked: IndexedTerm) -> int:
    return asked.position
