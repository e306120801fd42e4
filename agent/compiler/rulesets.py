"""The content of a ruleset, and its verdict on an address and a port.

A content is made of layers (P1), dagwall's own first, then NetworkPolicy's: a packet must pass every one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

from typing_extensions import assert_never

from agent.compiler.atoms import (
    ANY_ADDRESS,
    HOST,
    MAY_BE_NAMED,
    METADATA,
    NAMED,
    NEVER_NAMED,
    NODE,
    ON_LINK,
    UNKNOWN,
    Atom,
    AtomId,
    AtomTable,
    BackedAtom,
    Members,
    PortAtom,
    ServicePortAtom,
)
from agent.compiler.backends import BackendTerms
from agent.compiler.layers import (
    DirectionView,
    Hit,
    Hits,
    IndexedTerm,
    Layer,
    LayerKind,
    LoweredRule,
    Part,
    RulePosition,
)
from agent.compiler.names import MOST_DEMANDS, bits_of
from agent.compiler.parts import part_nodes
from agent.compiler.ports import Ports, rows_of, together
from agent.compiler.terms import AtNamedPort, AtOwnPort, AtPorts, AtService, Term
from agent.model.policy import Demand, FqdnPeer, HttpMatch, PolicyRef, PortMatch, RuleRef, Tls
from agent.model.verdict import Direction
from agent.model.want import RulesetId, Sockets, port_index
from agent.semantics.builtin import NODE_TO_OWN_PODS, OBSERVED

NOTHING_SEEN: Members = frozenset()
ALWAYS_SEEN: Members = frozenset({HOST, METADATA, NODE, UNKNOWN, NAMED})
CHART = ("Airflow chart",)


NEVER = 1 << MOST_DEMANDS
"""The bit of what no hello and no request has."""
D = TypeVar("D", Tls, HttpMatch)


def _with_bits(demands: Iterable[D]) -> tuple[tuple[D, ...], tuple[D, ...]]:
    """Those that have bits, and those for which none is left: of the policies that come last (P2)."""
    every = tuple(demands)
    return every[:MOST_DEMANDS], every[MOST_DEMANDS:]


class RulesetContent:
    """Layers with an index of their terms by what they ask of an address. Equal layers make equal contents."""

    def __init__(self, layers: tuple[Layer, ...], table: AtomTable, sockets: Sockets) -> None:
        self.layers, self.sockets = layers, sockets
        self._table = table
        self._hash = hash((layers, sockets))
        asking = [rule for layer in layers for rule in layer.egress.allow if rule.demands]
        demands = tuple(dict.fromkeys(each for rule in asking for each in rule.demands))
        self.hellos, hellos = _with_bits(each for each in demands if isinstance(each, Tls))
        self.requests, requests = _with_bits(each for each in demands if isinstance(each, HttpMatch))
        self.never = frozenset((*hellos, *requests))
        """Demands that have found no bit: nothing meets them."""
        self.asks_hellos = any(rule.enforced for rule in asking)
        sides = [layer.side(direction) for layer in layers for direction in Direction]
        self._audits = any(
            side.isolated != side.isolated_with_audit or not all(rule.enforced for rule in side.rules())
            for side in sides
        )
        self._asked: dict[Hashable, list[IndexedTerm]] = {}
        for i, layer in enumerate(layers):
            for direction in Direction:
                side = layer.side(direction)
                for part, rules in zip(Part, side.parts(), strict=True):
                    self._index((i, direction, part), rules, layer.kind)
        self._atoms = frozenset(AtomId(key) for key in self._asked if isinstance(key, int) and key != ANY_ADDRESS)
        self.asks_names = any(isinstance(table.atoms[number], FqdnPeer) for number in self._atoms)
        self._visible = self._atoms | ALWAYS_SEEN | self._parts()
        if self.asks_names:
            self._visible |= MAY_BE_NAMED | NEVER_NAMED
        self._backends = [
            self._backend_terms((i, Direction.EGRESS, Part.ALLOW))
            for i, layer in enumerate(layers)
            if layer.kind.judges_backends
        ]

    def text(self) -> str:
        """The same for equal contents, in every process."""
        return repr((self.layers, self.sockets))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, RulesetContent) and (self.layers, self.sockets) == (other.layers, other.sockets)

    def _index(self, place: RulePosition, rules: tuple[LoweredRule, ...], kind: LayerKind) -> None:
        for position, rule in enumerate(rules):
            for term in rule.terms:
                self._asked.setdefault(_key(term), []).append(IndexedTerm(place, position, rule, term, kind))

    def _backend_terms(self, place: RulePosition) -> BackendTerms:
        every = (asked for group in self._asked.values() for asked in group if asked.place == place)
        return BackendTerms(place, self._table, tuple(sorted(every, key=lambda asked: asked.position)))

    def _parts(self) -> Members:
        """Atoms of rules that name a port by its name: they are not what the terms are found by."""
        terms = (asked.term for group in self._asked.values() for asked in group)
        return frozenset(term.atom for term in terms if isinstance(term, AtNamedPort) and term.atom != ANY_ADDRESS)

    def bits(self, demands: Iterable[Demand]) -> tuple[int, int]:
        """RuleValue.hellos and .requests: a bit for each, by its place in those of this content."""
        asked = set(demands)
        never = {type(each): NEVER for each in asked & self.never}
        return (
            bits_of(each in asked for each in self.hellos) | never.get(Tls, 0),
            bits_of(each in asked for each in self.requests) | never.get(HttpMatch, 0),
        )

    def never_met(self) -> Counter[PolicyRef]:
        """How many demands of each policy have found no bit."""
        every = (rule for layer in self.layers for rule in layer.egress.allow)
        asked = {(rule.ref.policy, each) for rule in every for each in rule.demands}
        return Counter(ref for ref, each in asked if each in self.never)

    def servers_by_policy(self) -> Counter[PolicyRef]:
        """Most entries of map `servers` that each policy needs."""
        found = Counter[PolicyRef]()
        for rule in (rule for layer in self.layers for rule in layer.egress.allow):
            for each in rule.demands:
                found[rule.ref.policy] += 1 + 2 * (len(each.names) if isinstance(each, Tls) else 1)
        return found

    def parts_by_policy(self) -> Counter[PolicyRef]:
        """Entries of map `parts` that each policy's requests alone would need."""
        found = Counter[PolicyRef]()
        for ref in {rule.ref.policy for layer in self.layers for rule in layer.egress.allow if rule.demands}:
            own = (rule for layer in self.layers for rule in layer.egress.allow if rule.ref.policy == ref)
            asked = (each for rule in own for each in rule.demands if isinstance(each, HttpMatch))
            found[ref] = len(part_nodes(RulesetId(0), tuple(dict.fromkeys(asked))))
        return found

    def index_keys(self) -> set[Hashable]:
        """What a class must have for this content to treat it otherwise than its base class. With rules on names:
        also what lets a name lead to an address, or not."""
        return {*self._asked, *(MAY_BE_NAMED | NEVER_NAMED if self.asks_names else ())}

    def needs(self, classes: Iterable[Members]) -> Counter[PolicyRef]:
        """By policy: most rows that these classes can need: one for each prefix of the ports of each term."""
        weights = {
            key: Counter[PolicyRef]()
            for key, group in self._asked.items()
            if isinstance(key, int) and any(isinstance(asked.term, AtPorts) for asked in group)
        }
        for key, weight in weights.items():
            for asked in self._asked[key]:
                if isinstance(asked.term, AtPorts):
                    weight[asked.rule.ref.policy] += rows_of(asked.term.ports)
        found = Counter[PolicyRef]()
        for seen, count in Counter(self.seen(members) for members in classes).items():
            for key in (ANY_ADDRESS, *seen):
                for ref, rows in weights.get(key, {}).items():
                    found[ref] += rows * count
            for number in seen & self._table.at_ports:
                atom = self._table.atoms[number]
                for asked in self._at_one_port(atom):
                    found[asked.rule.ref.policy] += count
                if isinstance(atom, BackedAtom):
                    for ref in (ref for each in self._backends for ref in each.needs(atom)):
                        found[ref] += count
        return found

    def _at_one_port(self, atom: Atom) -> Iterable[IndexedTerm]:
        """Terms that such an atom may give a row each: by name, or by a service."""
        if isinstance(atom, ServicePortAtom):
            return (*self._asked.get(atom.service, ()), *(self._asked.get(CHART, ()) if atom.chart else ()))
        return self._asked.get((atom.protocol, atom.name), ()) if isinstance(atom, PortAtom) else ()

    def seen(self, members: Members) -> Members:
        """What of it this content can see at all."""
        found = members & self._visible
        ported = members & self._table.at_ports if self._table.at_ports else NOTHING_SEEN
        return found | ported if ported else found

    def refs(self) -> set[RuleRef]:
        """Every rule that an outcome may name."""
        sides = [layer.side(direction) for layer in self.layers for direction in Direction]
        named = {rule.ref for side in sides for rule in side.rules()}
        return named | {NODE_TO_OWN_PODS, OBSERVED}

    def views(self, members: Members) -> tuple[DirectionView, DirectionView]:
        """Its verdicts on addresses with these members, by direction."""
        by_rule: dict[tuple[RulePosition, int, bool], tuple[LoweredRule, list[Ports]]] = {}
        for asked, ports in self._matches(members):
            node = isinstance(asked.term, AtPorts) and asked.term.atom in (NODE, ON_LINK)
            by_rule.setdefault((asked.place, asked.position, node), (asked.rule, []))[1].append(ports)
        groups: dict[RulePosition, list[tuple[int, Hit]]] = {}
        for (place, position, node), (rule, found) in by_rule.items():
            groups.setdefault(place, []).append((position, Hit(rule, together(found), node)))
        ordered = {
            place: tuple(hit for _, hit in sorted(hits, key=lambda each: each[0])) for place, hits in groups.items()
        }
        judging = [i for i, layer in enumerate(self.layers) if layer.kind.judges_names or NAMED not in members]
        may_be_named = self.asks_names and bool(members & MAY_BE_NAMED) and not members & NEVER_NAMED
        egress, ingress = (
            DirectionView(
                tuple(self._hits(i, direction, members, ordered) for i in judging),
                self._audits,
                may_be_named=may_be_named and direction is Direction.EGRESS,
            )
            for direction in Direction
        )
        return egress, ingress

    def _hits(
        self, i: int, direction: Direction, members: Members, hits: Mapping[RulePosition, tuple[Hit, ...]]
    ) -> Hits:
        layer = self.layers[i]
        return Hits(
            kind=layer.kind,
            side=layer.side(direction),
            parts=tuple(hits.get((i, direction, part), ()) for part in Part),
            unknown=UNKNOWN in members,
            from_host=direction is Direction.INGRESS and HOST in members,
        )

    def _matches(self, members: Members) -> Iterator[tuple[IndexedTerm, Ports]]:
        """Terms that hold for an address, with the ports where they do."""
        for asked in self._asked.get(ANY_ADDRESS, ()):
            if _holds(ANY_ADDRESS, asked, members) and isinstance(asked.term, AtPorts):
                yield asked, asked.term.ports
        for number in members & self._atoms:
            for asked in self._asked[number]:
                if isinstance(asked.term, AtPorts):
                    yield asked, asked.term.ports
        for number in members & self._table.at_ports:
            atom = self._table.atoms[number]
            if isinstance(atom, PortAtom):
                index = port_index(atom.protocol, atom.number)
                for asked in self._asked.get((atom.protocol, atom.name), ()):
                    if isinstance(asked.term, AtNamedPort) and _holds(asked.term.atom, asked, members):
                        yield asked, ((index, index),)
            elif isinstance(atom, ServicePortAtom):
                yield from self._at_service(atom)
            elif isinstance(atom, BackedAtom):
                yield from self._at_backends(atom)

    def _at_backends(self, atom: BackedAtom) -> Iterator[tuple[IndexedTerm, Ports]]:
        """P13: what a layer lets pass to every backend passes; the earliest of those rules is named."""
        index = port_index(atom.protocol, atom.port)
        for backends in self._backends:
            if (reaching := backends.reaching(atom)) is not None:
                yield reaching, ((index, index),)

    def _at_service(self, atom: ServicePortAtom) -> Iterator[tuple[IndexedTerm, Ports]]:
        index = port_index(atom.protocol, atom.number)
        for key in (atom.service, CHART) if atom.chart else (atom.service,):
            for asked in self._asked.get(key, ()):
                term = asked.term
                if not isinstance(term, AtService) or (term.entity and atom.external):
                    continue
                if all(_passes(each, atom) for each in term.filters):
                    yield asked, ((index, index),)


def _key(term: Term) -> Hashable:
    match term:
        case AtPorts():
            return term.atom
        case AtService():
            return term.service or CHART
        case AtNamedPort() | AtOwnPort():
            return (term.protocol, term.name)
        case _:
            assert_never(term)


def _holds(atom: AtomId, asked: IndexedTerm, members: Members) -> bool:
    """A rule without peers reaches every address; metadata only if it denies, or its kind reaches it (P11)."""
    if atom != ANY_ADDRESS:
        return atom in members
    return asked.kind.reaches_metadata or asked.place[2] is Part.DENY or METADATA not in members


def _passes(ports: tuple[PortMatch, ...], atom: ServicePortAtom) -> bool:
    """Does the service's port (not its target) satisfy a rule's `ports` (P13)?"""
    for match in ports:
        if match.protocol != atom.protocol:
            continue
        if match.name is not None:
            if match.name == atom.port_name:
                return True
        elif match.port is None or match.port <= atom.port <= (match.end_port or match.port):
            return True
    return False
