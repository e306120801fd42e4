"""Policies lowered to terms over atoms: what is left of a policy when peers have numbers and ports are intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from typing_extensions import assert_never

from agent.compiler.atoms import (
    AIRFLOW,
    ANY_ADDRESS,
    DNS,
    KUBE_APISERVER,
    LEFT_OUT,
    MARKS,
    ON_LINK,
    AtomId,
    AtomTable,
    BlockAtom,
    CidrAtom,
    Mark,
    PerhapsTasks,
    PortlessAtom,
    ServiceAtom,
)
from agent.compiler.ports import DNS_PORTS, EVERY_PORT, ORDINARY_PORTS, Interval, Ports, intersection, interval
from agent.model.cluster import Destination, Name, Settings
from agent.model.network_policy import LivePodPeer, NetworkPolicyRule
from agent.model.policy import (
    CidrPeer,
    Entity,
    EntityPeer,
    FqdnPeer,
    Peer,
    PodPeer,
    PortMatch,
    Rule,
    ServicePeer,
    TaskPeer,
)
from agent.model.verdict import Direction
from agent.semantics.entities import APISERVER
from agent.semantics.peers import may_mean_a_pod

WIDE_V4, WIDE_V6 = 8, 24
"""CIDRs of at most so many bits count in the base class: each touches the class of nearly every address."""


@dataclass(frozen=True, slots=True)
class AtPorts:
    """The address has the atom, the port is one of these."""

    atom: AtomId
    ports: Ports


@dataclass(frozen=True, slots=True)
class AtNamedPort:
    """The address has the atom, and the port is what its pod calls by this name."""

    atom: AtomId
    protocol: int
    name: str


@dataclass(frozen=True, slots=True)
class AtOwnPort:
    """Ingress: the port is what the endpoint's own pod calls by this name. Resolved before use."""

    atom: AtomId
    protocol: int
    name: str


@dataclass(frozen=True, slots=True)
class AtService:
    """The address is the service's or its endpoints', at a port of the service that passes every filter (P13).

    `service` None: any service of the Airflow chart. `entity`: an entity's, to which no external address belongs.
    """

    service: Name | None
    filters: tuple[tuple[PortMatch, ...], ...]
    entity: bool = False


Term = AtPorts | AtNamedPort | AtOwnPort | AtService
PORTS = 16
"""So many ports of a term cost as much as one term more."""


def weight_of(terms: Iterable[Term]) -> int:
    return sum(1 + (len(t.ports) // PORTS if isinstance(t, AtPorts) else 0) for t in terms)


def port_terms(atom: AtomId, ports: tuple[PortMatch, ...] | None, direction: Direction) -> Iterator[Term]:
    """An atom at the ports of a rule."""
    if ports is None:
        yield AtPorts(atom, ORDINARY_PORTS)
        return
    if numbers := _numbers(ports):
        yield AtPorts(atom, numbers)
    named = AtNamedPort if direction is Direction.EGRESS else AtOwnPort
    yield from (named(atom, match.protocol, match.name) for match in ports if match.name is not None)


@lru_cache(maxsize=64)
def _numbers(ports: tuple[PortMatch, ...]) -> tuple[Interval, ...]:
    """Of the ports that are numbers; one object for all peers of a rule."""
    return tuple(sorted({interval(match) for match in ports if match.name is None}))


@dataclass(slots=True)
class Lowering:
    """Lowers rules. Gathers in passing which atoms, services and port names anybody asks about."""

    table: AtomTable
    settings: Settings

    def rule(self, rule: Rule, *, denies: bool = False) -> tuple[Term, ...]:
        return tuple(dict.fromkeys(self._terms(rule, denies=denies)))

    def native_rule(self, rule: NetworkPolicyRule) -> tuple[Term, ...]:
        """Of a NetworkPolicy: without `peers` every address, without `ports` every port of every protocol."""
        peers = rule.peers or ()
        atoms: list[BlockAtom | LivePodPeer] = [peer for peer in peers if isinstance(peer, LivePodPeer)]
        atoms += (BlockAtom(each.peers, each.base) for each in cidr_atoms(peers))
        numbers = [ANY_ADDRESS] if rule.peers is None else [self.table.number(atom) for atom in atoms]
        if rule.ports is None:
            return tuple(AtPorts(number, EVERY_PORT) for number in numbers)
        return tuple(term for number in numbers for term in port_terms(number, rule.ports, rule.direction))

    def entity(self, entity: Entity, ports: tuple[PortMatch, ...] | None, direction: Direction) -> Iterator[Term]:
        """The terms of an entity (P12)."""
        if entity is Entity.DNS:
            yield AtPorts(DNS, DNS_PORTS)
        elif direction is Direction.EGRESS and entity is Entity.KUBE_APISERVER:
            yield AtService(APISERVER, () if ports is None else (ports,), entity=True)
        elif direction is Direction.EGRESS and entity is Entity.AIRFLOW:
            for destination in self.settings.airflow:
                yield from self._destination(destination, ports)
            yield AtService(None, () if ports is None else (ports,), entity=True)
        else:
            yield from port_terms(MARKS[Mark(entity.value)], ports, direction)

    def destination_atom(self, peer: CidrPeer) -> AtomId:
        """The atom of a configured destination; it is an entity's, hence a base atom."""
        return self.table.number(CidrAtom((peer,), base=True))

    def _terms(self, rule: Rule, *, denies: bool) -> Iterator[Term]:
        if rule.peers is None:
            yield from port_terms(ANY_ADDRESS, rule.ports, rule.direction)
            return
        for atom in cidr_atoms(rule.peers, whole=denies):
            yield from port_terms(self.table.number(atom), rule.ports, rule.direction)
        if denies and EntityPeer(Entity.NODE) in rule.peers:
            yield from port_terms(ON_LINK, rule.ports, rule.direction)
        if denies and any(may_mean_a_pod(peer) for peer in rule.peers):
            yield from port_terms(LEFT_OUT, _of_any_name(rule), rule.direction)
        for peer in rule.peers:
            yield from self._peer(PerhapsTasks(peer) if denies and isinstance(peer, TaskPeer) else peer, rule)

    def _peer(self, peer: Peer | PerhapsTasks, rule: Rule) -> Iterator[Term]:
        match peer:
            case EntityPeer():
                yield from self.entity(peer.entity, rule.ports, rule.direction)
            case PodPeer() | TaskPeer() | PerhapsTasks() | FqdnPeer():
                yield from port_terms(self.table.number(peer), rule.ports, rule.direction)
            case ServicePeer():
                yield from self._service((peer.namespace, peer.name), rule)
            case CidrPeer():
                pass  # cidr_atoms takes all of a rule together
            case _:
                assert_never(peer)

    def _service(self, name: Name, rule: Rule) -> Iterator[Term]:
        if rule.direction is Direction.EGRESS:
            yield AtService(name, () if rule.ports is None else (rule.ports,))
            yield from port_terms(self.table.number(PortlessAtom(name)), rule.ports, rule.direction)
        else:
            yield from port_terms(self.table.number(ServiceAtom(name)), rule.ports, rule.direction)

    def _destination(self, destination: Destination, ports: tuple[PortMatch, ...] | None) -> Iterator[Term]:
        """A configured destination, at its own ports where it names some, and at the rule's.

        Where both name ports, names of ports count in neither.
        """
        filters = tuple(each for each in (destination.ports, ports) if each is not None)
        if isinstance(destination.peer, ServicePeer):
            name = (destination.peer.namespace, destination.peer.name)
            yield AtService(name, filters, entity=True)
            atom = self.table.number(PortlessAtom(name))
        else:
            atom = self.destination_atom(destination.peer)
        if len(filters) < 2:
            yield from port_terms(atom, filters[0] if filters else None, Direction.EGRESS)
            return
        own, wanted = (tuple(interval(m) for m in each if m.name is None) for each in filters)
        if ports_of_both := intersection(own, wanted):
            yield AtPorts(atom, ports_of_both)


def _of_any_name(rule: Rule) -> tuple[PortMatch, ...] | None:
    """Ports of a pod whose names for them nobody knows: each may be the one that the rule names."""
    if rule.ports is None or rule.direction is Direction.INGRESS:
        return rule.ports
    return tuple(dict.fromkeys(match if match.name is None else PortMatch(match.protocol) for match in rule.ports))


def is_wide(peer: CidrPeer) -> bool:
    return peer.network.prefixlen <= (WIDE_V4 if peer.network.version == 4 else WIDE_V6)


def cidr_atoms(peers: Iterable[Peer | LivePodPeer], *, whole: bool = False) -> Iterator[CidrAtom]:
    """The CIDRs of a rule as atoms: wide ones each by itself, all others together. `whole`: of a deny rule."""
    narrow = []
    for peer in peers:
        if isinstance(peer, CidrPeer):
            if is_wide(peer):
                yield CidrAtom((peer,), base=True, whole=whole)
            else:
                narrow.append(peer)
    if narrow:
        unique = dict.fromkeys(narrow)
        yield CidrAtom(tuple(sorted(unique, key=repr)), base=False, whole=whole)


def entity_services(settings: Settings) -> frozenset[Name]:
    """Services that an entity consists of, beside those of the Airflow chart."""
    destinations = [d.peer for d in settings.airflow if isinstance(d.peer, ServicePeer)]
    return frozenset([APISERVER, *((peer.namespace, peer.name) for peer in destinations)])


def entity_mark(service: Name, settings: Settings) -> Iterator[AtomId]:
    """The marks of a service's addresses and endpoints."""
    if service == APISERVER:
        yield KUBE_APISERVER
    if service in settings.dns_services:
        yield DNS
    if any(d.peer == ServicePeer(*service) for d in settings.airflow):
        yield AIRFLOW
