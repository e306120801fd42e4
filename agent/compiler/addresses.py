"""Which atoms hold for which address: exact addresses in an index that follows changes, prefixes swept as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from agent.compiler.atoms import (
    AIRFLOW,
    CLUSTER,
    DNS,
    HOST,
    LEFT_OUT,
    METADATA,
    NODE,
    ON_LINK,
    SPECIAL,
    UNKNOWN,
    AtomId,
    BlockAtom,
    CidrAtom,
    Members,
    closed,
)
from agent.compiler.backends import Behind
from agent.compiler.peerpods import PeerPods
from agent.compiler.prefixes import Guard, Lpm, host_of, memberships
from agent.compiler.services import ServiceAtoms, targets
from agent.model import ranges
from agent.model.cluster import Cluster, EndpointSlice, Name, Pod, Service
from agent.model.identity import PodUid
from agent.model.policy import CidrPeer
from agent.model.want import Host, Prefix
from agent.semantics.owners import is_peer, precedence

NOTHING: Members = frozenset()
Ranges = CidrAtom | BlockAtom


@dataclass(slots=True)
class Owners:
    """Who has an address, by name. Of most kinds nobody: one empty set for all of these."""

    pods: AbstractSet[PodUid] = frozenset()
    services: AbstractSet[Name] = frozenset()
    slices: AbstractSet[Name] = frozenset()
    externals: AbstractSet[Name] = frozenset()  # services that name it among their external addresses
    left_out: AbstractSet[PodUid] = frozenset()  # pods of which only the address is known

    def __bool__(self) -> bool:
        return bool(self.known or self.externals or self.left_out)

    @property
    def known(self) -> bool:
        """Is the address somebody's, not only written in a Service?"""
        return bool(self.pods or self.services or self.slices)


class Addresses:
    """The index. Built for one revision of policies and settings; pods, services and slices may change after that."""

    def __init__(
        self,
        cluster: Cluster,
        cidrs: Iterable[tuple[AtomId, Ranges]],
        pods: PeerPods,
        services: ServiceAtoms,
        *,
        backends: bool = False,
    ) -> None:
        """`backends`: do NetworkPolicies ask what stands behind a service's address (P13)?"""
        self._cluster = cluster
        self._pods, self._services, self._backends = pods, services, backends
        self._owners: dict[Host, Owners] = {}
        self._slices_of: dict[Name, set[Name]] = {}
        self._fixed = dict(_fixed(cluster))
        self.prefixes = memberships(_items(cluster, cidrs))
        self._around = Lpm(self.prefixes)
        self.apply(cluster, (*cluster.pods, *cluster.left_out), cluster.services, cluster.slices)

    def hosts(self) -> set[Host]:
        """Every address that is somebody's or that the semantics name."""
        return self._owners.keys() | self._fixed.keys()

    def apply(
        self, cluster: Cluster, pods: Iterable[PodUid], services: Iterable[Name], slices: Iterable[Name]
    ) -> set[Host]:
        """Takes in these objects as they are now; returns the addresses about which anything may be different."""
        old, self._cluster = self._cluster, cluster
        stale: set[Host] = set()
        for uid in pods:
            stale |= self._move(("pods", uid), _pod_hosts(old.pods.get(uid)), _pod_hosts(cluster.pods.get(uid)))
            out = (_pod_hosts(each.left_out.get(uid)) for each in (old, cluster))
            stale |= self._move(("left_out", uid), *out)
        changed, fronts = set(slices), set[Name]()
        for name in slices:
            for piece in (old.slices.get(name), cluster.slices.get(name)):
                if piece is not None:
                    fronts.add((piece.namespace, piece.service))
                    self._slices_of.setdefault((piece.namespace, piece.service), set()).discard(name)
            now = cluster.slices.get(name)
            stale |= self._move(("slices", name), _hosts(old.slices.get(name)), _hosts(now))
            if now is not None:
                self._slices_of.setdefault((now.namespace, now.service), set()).add(name)
        for name in services:
            was, is_ = old.services.get(name), cluster.services.get(name)
            stale |= self._move(("services", name), _hosts(was), _hosts(is_))
            stale |= self._move(("externals", name), _externals(was), _externals(is_))
            for piece_name in self._slices_of.get(name, set()) - changed:
                stale |= _hosts(cluster.slices.get(piece_name))
        return stale | self._fronts(fronts, stale) if self._backends else stale

    def _fronts(self, services: set[Name], backends: set[Host]) -> set[Host]:
        """Addresses of these services, and of those with one of these backends."""
        owners = (self._owners[host] for host in backends if host in self._owners)
        pieces = (self._cluster.slices[name] for each in owners for name in each.slices)
        every = services | {(piece.namespace, piece.service) for piece in pieces}
        return {host for name in every for host in _hosts(self._cluster.services.get(name))}

    def members(self, host: Host) -> Members | None:
        """What holds for an exact address; None where no object owns it: its prefix decides then."""
        owners, fixed = self._owners.get(host), self._fixed.get(host)
        owned = self._owned(owners) if owners is not None else NOTHING
        if fixed is None and not (owners is not None and owners.known) and not owned:
            return None
        atoms = set(self._around.get(host, NOTHING))
        if fixed is not None or (owners is not None and owners.known):
            atoms.discard(UNKNOWN)
        atoms |= fixed or NOTHING
        if METADATA not in atoms:
            atoms |= owned
        return closed(atoms)

    def _owned(self, owners: Owners) -> Members:
        found: Members = NOTHING
        if owners.pods:
            found |= self._pods.atoms(self._pod_of(owners))
        elif owners.left_out:
            found |= {LEFT_OUT}
        for name in owners.services:
            found |= self._services.of_service(self._cluster.services[name])
        for name in owners.externals:
            found |= self._services.of_external(self._cluster.services[name])
        for name in owners.slices:
            piece = self._cluster.slices[name]
            service = self._cluster.services.get((piece.namespace, piece.service))
            if service is not None:
                found |= self._services.of_slice(piece, service)
        return found | self._backed(owners.services) if self._backends else found

    def _pod_of(self, owners: Owners) -> Pod:
        return max((self._cluster.pods[uid] for uid in owners.pods), key=precedence)

    def _backed(self, services: Iterable[Name]) -> Members:
        """Where connections to an address of these services end, for each of their ports: at the endpoints that are
        ready, and where none is, at any, so that what is open goes on."""
        ends: dict[tuple[int, int], set[tuple[Host, int]]] = {}
        ready: dict[tuple[int, int], set[tuple[Host, int]]] = {}
        every: set[Host] = set()
        for name in services:
            pieces = self._slices_of.get(name, ())
            if any(self._cluster.slices[piece_name].cut for piece_name in pieces):
                continue
            for piece_name in pieces:
                piece = self._cluster.slices[piece_name]
                there = {host_of(address): address not in piece.waiting for address in piece.addresses}
                every |= there.keys()
                serving = [host for host, serves in there.items() if serves]
                for port, number in targets(self._cluster.services[name], piece):
                    at = (port.protocol, port.port)
                    ends.setdefault(at, set()).update((host, number) for host in there)
                    ready.setdefault(at, set()).update((host, number) for host in serving)
        behind = Behind(self._pods.table, {host: self._endpoint(host) for host in every})
        chosen = ((at, ready[at] or found) for at, found in ends.items())
        return frozenset(behind.atom(*at, found) for at, found in chosen if found)

    def _endpoint(self, host: Host) -> Members:
        owners, members = self._owners.get(host), self._around.get(host, NOTHING)
        if owners is not None and owners.pods and METADATA not in members:
            members |= self._pods.atoms(self._pod_of(owners))
        return members

    def _move(self, owner: tuple[str, PodUid | Name], old: set[Host], new: set[Host]) -> set[Host]:
        kind, name = owner
        for host in old - new:
            owners = self._owners.get(host)
            if owners is not None and getattr(owners, kind):
                getattr(owners, kind).discard(name)
                if not owners:
                    del self._owners[host]
        for host in new:
            owners = self._owners.setdefault(host, Owners())
            if known := getattr(owners, kind):
                known.add(name)
            else:
                setattr(owners, kind, {name})
        return old | new


def _hosts(item: Service | EndpointSlice | None) -> set[Host]:
    return {host_of(address) for address in item.addresses} if item is not None else set()


def _externals(service: Service | None) -> set[Host]:
    return {host_of(address) for address in service.external} if service is not None else set()


def _pod_hosts(pod: Pod | None) -> set[Host]:
    return {host_of(address) for address in pod.addresses} if pod is not None and is_peer(pod) else set()


def _fixed(cluster: Cluster) -> Iterator[tuple[Host, Members]]:
    marks: dict[Host, set[AtomId]] = {}
    for node in cluster.nodes.values():
        for address in node.addresses:
            marks.setdefault(host_of(address), set()).add(NODE)
    for address in cluster.settings.host_addresses:
        marks.setdefault(host_of(address), set()).update((NODE, HOST))
    for address in cluster.settings.dns_addresses:
        marks.setdefault(host_of(address), set()).add(DNS)
    return ((host, frozenset(atoms)) for host, atoms in marks.items())


def _items(cluster: Cluster, cidrs: Iterable[tuple[AtomId, Ranges]]) -> dict[CidrPeer, Members]:
    """Every range that matters, with the atoms that it brings. Guarded ranges are holes in what allow rules name."""
    tags: dict[CidrPeer, set[AtomId]] = {}
    metadata = ranges.metadata_ranges(cluster.settings.metadata)
    guard = Guard((*metadata, *ranges.SPECIAL))
    for number, atom in cidrs:
        whole = isinstance(atom, BlockAtom) or atom.whole
        for peer in atom.peers:
            tags.setdefault(peer if whole else guard.without(peer), set()).add(number)
    node_ranges = [network for node in cluster.nodes.values() for network in node.pod_ranges]
    for network in (*cluster.settings.pod_ranges, *cluster.settings.service_ranges, *node_ranges):
        tags.setdefault(CidrPeer(network), set()).update((CLUSTER, UNKNOWN))
    for destination in cluster.settings.airflow:
        if isinstance(destination.peer, CidrPeer):
            tags.setdefault(guard.without(destination.peer), set()).add(AIRFLOW)
    marked = ((metadata, METADATA), (ranges.SPECIAL, SPECIAL), (ranges.ON_LINK, ON_LINK), (ranges.LOOPBACK, NODE))
    for networks, mark in marked:
        for network in networks:
            tags.setdefault(CidrPeer(network), set()).add(mark)
    return {peer: frozenset(atoms) for peer, atoms in tags.items()}


def builtin_prefixes(cluster: Cluster) -> int:
    """How many entries of map `peers` the cluster's own ranges need, whatever policies say."""
    return len(memberships(_items(cluster, ())))


def closed_prefixes(prefixes: dict[Prefix, Members]) -> dict[Prefix, Members]:
    """Prefixes with the members of their addresses (P12's WORLD added)."""
    memo = {members: closed(members) for members in set(prefixes.values())}
    return {prefix: memo[members] for prefix, members in prefixes.items()}
