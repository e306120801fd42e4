"""Atoms: what a rule can ask about an address. An address's class is the set of atoms that hold for it.

A *base* atom counts in the base class too: the entities, all pods of all namespaces, and CIDRs so wide that they
would otherwise touch the class of nearly every address. Every ruleset has rows for base classes, of which there are
few therefore; for other classes only where it names an atom: labels and namespaces that somebody asks about cost
nobody a row who allows all pods.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

from typing_extensions import assert_never

from agent.compiler.interning import stable_number
from agent.model.cluster import Name
from agent.model.network_policy import LivePodPeer
from agent.model.policy import CidrPeer, FqdnPeer, PodPeer, TaskPeer

AtomId = NewType("AtomId", int)
Members = frozenset[AtomId]


class Mark(Enum):
    """Atoms that every cluster has: the entities (P12), and what else the semantics ask about an address."""

    NODE = "node"
    CLUSTER = "cluster"
    KUBE_APISERVER = "kube-apiserver"
    DNS = "dns"
    AIRFLOW = "airflow"
    METADATA = "metadata"
    WORLD = "world"
    HOST = "this host"  # P8
    UNKNOWN = "in pod or service ranges, nobody known"  # P15
    SPECIAL = "link-local, multicast, reserved"  # never in a class: it only keeps an address out of WORLD
    ON_LINK = "perhaps the node, for deny rules"
    NAMED = "a DNS name, not an address"
    LEFT_OUT = "some pod, for deny rules"  # P17


@dataclass(frozen=True, slots=True)
class CidrAtom:
    """In any of these CIDRs, which one rule names together.

    `whole`: of a deny rule, which covers metadata and special addresses as well (P11, P12).
    """

    peers: tuple[CidrPeer, ...]
    base: bool
    whole: bool = False


@dataclass(frozen=True, slots=True)
class BlockAtom:
    """In any of these ipBlocks of a NetworkPolicy rule, metadata addresses included."""

    peers: tuple[CidrPeer, ...]
    base: bool


@dataclass(frozen=True, slots=True)
class PerhapsTasks:
    """A `tasks` peer of a deny rule: what it might mean counts (I1, I2)."""

    peer: TaskPeer

    @property
    def namespace(self) -> str | None:
        return self.peer.namespace


@dataclass(frozen=True, slots=True)
class PortAtom:
    """A pod whose container names this port."""

    protocol: int
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class ServiceAtom:
    """An address of the service or of its endpoints (P13)."""

    service: Name


@dataclass(frozen=True, slots=True)
class PortlessAtom:
    """An endpoint of a service without ports: a rule that names the service means it at every port (P13)."""

    service: Name


@dataclass(frozen=True, slots=True)
class ServicePortAtom:
    """An address where the service's port `port` is reached at `number`: the same, or the endpoints' target."""

    service: Name
    port_name: str
    port: int
    protocol: int
    number: int
    chart: bool  # of a service of the Airflow chart
    base: bool
    external: bool = False  # an address that whoever writes the service has chosen: no entity's


@dataclass(frozen=True, slots=True)
class BackedAtom:
    """A service's address: what connects to `port` ends at one of `ends`, nobody knows which (P13).

    Each is the number of the endpoints' port, and their kinds (a KindsAtom's number).
    """

    protocol: int
    port: int
    ends: tuple[tuple[int, AtomId], ...]


Kind = tuple[AtomId, ...]
"""What NetworkPolicies can ask about an endpoint, sorted."""


@dataclass(frozen=True, slots=True)
class KindsAtom:
    """Kinds of endpoints, sorted. In no class: BackedAtoms refer to it."""

    kinds: tuple[Kind, ...]


Atom = (
    Mark
    | CidrAtom
    | BlockAtom
    | FqdnPeer
    | PodPeer
    | TaskPeer
    | PerhapsTasks
    | LivePodPeer
    | PortAtom
    | ServiceAtom
    | PortlessAtom
    | ServicePortAtom
    | BackedAtom
    | KindsAtom
)

MARKS = {mark: AtomId(i) for i, mark in enumerate(Mark)}
(NODE, CLUSTER, KUBE_APISERVER, DNS, AIRFLOW, METADATA, WORLD, HOST, UNKNOWN, SPECIAL, ON_LINK, NAMED, LEFT_OUT) = (
    MARKS.values()
)
ANY_ADDRESS = AtomId(-1)
"""Stands in a term for a rule without peers; never in a class."""

CROWD = 10_000

NAMED_ENTITIES: Members = frozenset({NODE, CLUSTER, KUBE_APISERVER, DNS, AIRFLOW, METADATA})
NOT_WORLD = NAMED_ENTITIES | {SPECIAL, LEFT_OUT}
MAY_BE_NAMED: Members = frozenset({WORLD, KUBE_APISERVER, DNS, AIRFLOW})
NEVER_NAMED: Members = frozenset({NODE, CLUSTER, METADATA, HOST, UNKNOWN, LEFT_OUT})
"""Addresses of one of the first and none of the second are what a DNS name may lead to (S4)."""
BUT_METADATA: Members = frozenset(MARKS.values()) - {METADATA}


def closed(members: Iterable[AtomId]) -> Members:
    """Adds WORLD where no other entity holds (P12); a metadata address is in no other entity (P11)."""
    atoms = frozenset(members)
    if METADATA in atoms:
        return atoms - BUT_METADATA
    return atoms - {SPECIAL} if atoms & NOT_WORLD else atoms | {WORLD}


def is_base(atom: Atom) -> bool:
    if isinstance(atom, PodPeer | LivePodPeer):
        of_all = atom.namespace is None and not (atom.namespace_selector and atom.namespace_selector.requirements)
        return of_all and not atom.pod_selector.requirements
    return isinstance(atom, Mark) or bool(getattr(atom, "base", False))


def is_native(atom: Atom) -> bool:
    """Does the layer of NetworkPolicy ask about it?"""
    return isinstance(atom, BlockAtom | LivePodPeer)


def _marks() -> dict[Atom, AtomId]:
    return dict(MARKS.items())


@dataclass(slots=True)
class AtomTable:
    """Numbers of atoms, which follow from their content."""

    numbers: dict[Atom, AtomId] = field(default_factory=_marks)
    atoms: dict[AtomId, Atom] = field(default_factory=lambda: {i: mark for mark, i in MARKS.items()})
    base: set[AtomId] = field(default_factory=lambda: set(MARKS.values()))
    native: set[AtomId] = field(default_factory=set)
    at_ports: set[AtomId] = field(default_factory=set)
    """Atoms that hold at some ports only: of services, backends, named ports."""
    index_keys: dict[AtomId, frozenset[Hashable]] = field(default_factory=dict)
    """What rulesets and classes meet under: services and named ports stand for all the numbers they have."""
    _retained: int = 0

    @property
    def crowded(self) -> bool:
        """Have atoms more than doubled since somebody asked which ones are needed?"""
        return len(self.atoms) > 2 * self._retained + CROWD

    def number(self, atom: Atom) -> AtomId:
        known = self.numbers.get(atom)
        if known is not None:
            return known
        number = AtomId(stable_number(repr(atom), len(MARKS), self.atoms, bits=62))
        self.numbers[atom] = number
        self.atoms[number] = atom
        if is_native(atom):
            self.native.add(number)
        if isinstance(atom, PortAtom | ServicePortAtom | BackedAtom):
            self.at_ports.add(number)
        if is_base(atom):
            self.base.add(number)
        else:
            self.index_keys[number] = self._index_keys(number, atom)
        return number

    def retain(self, live: set[AtomId]) -> None:
        """Forgets every atom but the marks, those of `live` and what they are made of."""
        kept = live | {part for number in live for part in self._parts(number)}
        for number in [n for n in self.atoms if n not in kept and n >= len(MARKS)]:
            del self.numbers[self.atoms.pop(number)]
            self.base.discard(number)
            self.native.discard(number)
            self.at_ports.discard(number)
            self.index_keys.pop(number, None)
        self._retained = len(self.atoms)

    def _parts(self, number: AtomId) -> Iterator[AtomId]:
        atom = self.atoms.get(number)
        if isinstance(atom, BackedAtom):
            for _, group in atom.ends:
                yield group
                yield from self._parts(group)
        elif isinstance(atom, KindsAtom):
            yield from (part for kind in atom.kinds for part in kind)

    def _index_keys(self, number: AtomId, atom: Atom) -> frozenset[Hashable]:
        match atom:
            case PortAtom():
                return frozenset([(atom.protocol, atom.name)])
            case ServicePortAtom():
                return frozenset([atom.service])
            case BackedAtom():  # a rule must reach every backend, so those of one are enough
                return min((self.index_keys[group] for _, group in atom.ends), key=len)
            case KindsAtom():
                return min((self._keys_of(kind) for kind in atom.kinds), key=len)
            case (
                Mark()
                | CidrAtom()
                | BlockAtom()
                | FqdnPeer()
                | PodPeer()
                | TaskPeer()
                | PerhapsTasks()
                | LivePodPeer()
                | ServiceAtom()
                | PortlessAtom()
            ):
                return frozenset([number])
            case _:
                assert_never(atom)

    def _keys_of(self, parts: Iterable[AtomId]) -> frozenset[Hashable]:
        return frozenset([ANY_ADDRESS]).union(*(self.index_keys.get(part, {part}) for part in parts))
