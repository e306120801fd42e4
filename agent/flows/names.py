"""Names for addresses: service, task, namespace, entity or CIDR; never a raw address, so that metrics stay few."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Network

from agent.model import ranges
from agent.model.changes import Changes
from agent.model.cluster import Address, Cluster, Name, Pod
from agent.model.flow import PeerKind, PeerName, Place
from agent.model.identity import Kind, PodUid
from agent.model.policy import CidrPeer, Entity, Network, ServicePeer
from agent.semantics.entities import APISERVER
from agent.semantics.owners import precedence

LOOPBACK = PeerName(PeerKind.ENTITY, "loopback")
_ENTITY = {entity: PeerName(PeerKind.ENTITY, entity.value) for entity in Entity}


def pod_name(pod: Pod) -> PeerName:
    """A task by its ids, any other pod by its namespace."""
    identity, name = pod.claim.identity, f"{pod.namespace}/pods"
    if identity.dag_id:
        name = f"{pod.namespace}/{identity.dag_id}/{identity.task_id}"
    elif identity.kind is Kind.COMPONENT:
        name = f"{pod.namespace}/airflow-{dict(pod.claim.labels).get('component', 'component')}"
    return PeerName(PeerKind.POD, name, identity, pod.name)


class PeerNames:
    """Kept in step with snapshots; the cost of a changed pod is that pod's."""

    def __init__(self) -> None:
        self._pods: dict[Address, set[PodUid]] = {}
        self._addresses: dict[PodUid, tuple[Address, ...]] = {}
        self._services: dict[Address, Name] = {}
        self._ends: dict[Address, tuple[Name, ...]] = {}  # services among whose endpoints or external addresses it is
        self._cidrs: dict[tuple[int, int], dict[int, Network]] = {}
        self._node_ranges: tuple[Network, ...] = ()
        self._cluster = Cluster()

    def update(self, cluster: Cluster, changes: Changes) -> None:
        """Takes in a snapshot; `changes` as for the compiler."""
        self._cluster = cluster
        for uid in cluster.pods if changes.everything_else else changes.pods:
            self._place(uid, cluster.pods.get(uid))
        if changes.everything_else:
            for uid in [uid for uid in self._addresses if uid not in cluster.pods]:
                self._place(uid, None)
            self._cidrs = _by_length(_written_cidrs(cluster))
            self._node_ranges = tuple(r for node in cluster.nodes.values() for r in node.pod_ranges)
        if changes.everything_else or changes.services or changes.slices:
            self._services = {a: (s.namespace, s.name) for s in cluster.services.values() for a in s.addresses}
            self._ends = _ends(cluster)

    def name(self, address: Address) -> PeerName:
        """The best name of an address at this revision."""
        return replace(self._name(address), place=self._where(address))

    def is_resolver(self, address: Address) -> bool:
        """Is it of entity `dns` (P12)?"""
        settings = self._cluster.settings
        names = (self._services.get(address), *self._ends.get(address, ()))
        return address in settings.dns_addresses or any(name in settings.dns_services for name in names if name)

    def _where(self, address: Address) -> Place:
        settings, nodes = self._cluster.settings, self._cluster.nodes.values()
        if self._services.get(address) == APISERVER or APISERVER in self._ends.get(address, ()):
            return Place.API_SERVER
        if address in settings.host_addresses:
            return Place.THIS_NODE
        return Place.OTHER_NODE if any(address in node.addresses for node in nodes) else Place.ELSEWHERE

    def _name(self, address: Address) -> PeerName:
        settings = self._cluster.settings
        if _in_any(address, ranges.LOOPBACK):
            return LOOPBACK
        if _in_any(address, ranges.metadata_ranges(settings.metadata)):
            return _ENTITY[Entity.METADATA]
        service = self._services.get(address)
        if service is not None:
            return PeerName(PeerKind.SERVICE, "/".join(service))
        pod = self._owner(address)
        if pod is not None:
            own = pod_name(pod)
            return replace(self._served_by(address, pod.namespace) or own, identity=own.identity, pod=own.pod)
        if address in settings.host_addresses or any(address in n.addresses for n in self._cluster.nodes.values()):
            return _ENTITY[Entity.NODE]
        front = self._served_by(address)
        if front is not None:
            return front
        cidr = self._longest(address)
        if cidr is not None:
            return PeerName(PeerKind.CIDR, str(cidr))
        if _in_any(address, settings.pod_ranges + settings.service_ranges + self._node_ranges):
            return PeerName(PeerKind.UNKNOWN, "unknown-cluster-address")
        if _in_any(address, ranges.SPECIAL):
            return PeerName(PeerKind.UNKNOWN, _special(address))
        return _ENTITY[Entity.WORLD]

    def _served_by(self, address: Address, namespace: str = "") -> PeerName | None:
        """The first service by name; for a pod, of its own namespace only: a stranger's may list its address."""
        names = (name for name in self._ends.get(address, ()) if namespace in ("", name[0]))
        name = next(names, None)
        return None if name is None else PeerName(PeerKind.SERVICE, "/".join(name))

    def _place(self, uid: PodUid, pod: Pod | None) -> None:
        for address in self._addresses.pop(uid, ()):
            self._pods[address].discard(uid)
            if not self._pods[address]:
                del self._pods[address]
        if pod is not None and not pod.finished and not pod.host_network:
            self._addresses[uid] = pod.addresses
            for address in pod.addresses:
                self._pods.setdefault(address, set()).add(uid)

    def _owner(self, address: Address) -> Pod | None:
        """As for the compiler (I2)."""
        pods = (self._cluster.pods[uid] for uid in self._pods.get(address, ()))
        return max(pods, key=precedence, default=None)

    def _longest(self, address: Address) -> Network | None:
        """The longest CIDR that some policy names."""
        bits = int(address)
        for (version, shift), networks in self._cidrs.items():
            if version == address.version and bits >> shift in networks:
                return networks[bits >> shift]
        return None


def _ends(cluster: Cluster) -> dict[Address, tuple[Name, ...]]:
    """Endpoints by the services that list them, and external addresses by those that some rule names."""
    named = {
        (peer.namespace, peer.name)
        for policy in cluster.policies.values()
        for _, _, peer in policy.peers()
        if isinstance(peer, ServicePeer)
    }
    found: dict[Address, set[Name]] = {}
    for part in cluster.slices.values():
        for address in part.addresses if part.service else ():
            found.setdefault(address, set()).add((part.namespace, part.service))
    for name in named.intersection(cluster.services):
        for address in cluster.services[name].external:
            found.setdefault(address, set()).add(name)
    return {address: tuple(sorted(names)) for address, names in found.items()}


def _in_any(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _special(address: Address) -> str:
    """What is not in `world` and belongs to nobody (P12)."""
    if address.is_link_local:
        return "link-local"
    return "multicast" if address.is_multicast else "reserved"


def _written_cidrs(cluster: Cluster) -> Iterable[Network]:
    for policy in cluster.policies.values():
        yield from (peer.network for _, _, peer in policy.peers() if isinstance(peer, CidrPeer))


def _by_length(networks: Iterable[Network]) -> dict[tuple[int, int], dict[int, Network]]:
    """(version, host bits) -> prefix bits -> network, longest prefixes first."""
    out: dict[tuple[int, int], dict[int, Network]] = {}
    for network in sorted(set(networks), key=lambda n: (-n.prefixlen, str(n))):
        if network.prefixlen == 0:
            continue  # everything is in it: `world` is more precise
        shift = (32 if isinstance(network, IPv4Network) else 128) - network.prefixlen
        out.setdefault((network.version, shift), {})[int(network.network_address) >> shift] = network
    return out
