"""What the semantics make of one address, read straight from the snapshot. Slow on purpose; see judge.py."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

from agent.judge.claims import worth_of
from agent.model import ranges
from agent.model.cluster import Address, Cluster, Name, Namespace, Pod, Service, ServicePort
from agent.model.identity import Attestation
from agent.model.network_policy import LivePodPeer
from agent.model.policy import CidrPeer, Entity, Network, PodPeer, PortMatch, ServicePeer, TaskPeer
from agent.semantics.entities import APISERVER, chart_namespaces, of_airflow_chart
from agent.semantics.owners import is_peer, precedence
from agent.semantics.selecting import pods_include, tasks_include

Reached = tuple[ServicePort, int]
"""A service's port, and the number at which an address serves it."""


def plain(address: Address) -> Address:
    """IPv4 in IPv6 clothes is IPv4."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def inside(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def matches_number(match: PortMatch, protocol: int, port: int) -> bool:
    """Does a match without a name cover this protocol and port?"""
    if match.name is not None or match.protocol != protocol:
        return False
    return match.port is None or match.port <= port <= (match.end_port or match.port)


class Facts:
    """One address in one snapshot."""

    def __init__(self, cluster: Cluster, address: Address) -> None:
        self.cluster = cluster
        self.address = plain(address)
        metadata = ranges.metadata_ranges(cluster.settings.metadata)
        self._guarded = [each for each in (*metadata, *ranges.SPECIAL) if inside(self.address, each)]
        self.is_metadata = any(each in metadata for each in self._guarded)
        owners = [] if self.is_metadata else [p for p in cluster.pods.values() if is_peer(p) and self._has(p)]
        self.pod: Pod | None = max(owners, key=precedence, default=None)
        self.is_left_out = (
            self.pod is None
            and not self.is_metadata
            and any(is_peer(pod) and self._has(pod) for pod in cluster.left_out.values())
        )

    def _has(self, item: Pod) -> bool:
        return self.address in item.addresses

    def namespace(self, name: str) -> Namespace:
        return self.cluster.namespaces.get(name) or Namespace(name)

    def in_cidr(self, peer: CidrPeer) -> bool:
        """Of an allow rule: metadata, link-local, multicast ... are in no CIDR wider than they are (P11, P12)."""
        return self.in_block(peer) and all(peer.network.prefixlen >= each.prefixlen for each in self._guarded)

    def in_block(self, peer: CidrPeer) -> bool:
        """Of a deny rule, or an ipBlock of a NetworkPolicy: every address of it."""
        return inside(self.address, peer.network) and not any(inside(self.address, hole) for hole in peer.excluded)

    def left_out_of(self, peer: object) -> bool:
        """In a CIDR whose `except` leaves it out."""
        return isinstance(peer, CidrPeer) and inside(self.address, peer.network) and not self.in_block(peer)

    def in_pods(self, peer: PodPeer | LivePodPeer) -> bool:
        pod = self.pod
        known = self.cluster.namespaces.get(pod.namespace) if pod is not None else None
        of_namespace = dict(known.labels) if known is not None else None
        return pod is not None and pods_include(peer, pod, dict(pod.labels), of_namespace)

    def in_tasks(self, peer: TaskPeer, *, denies: bool = False) -> bool:
        """To allow takes a claim that is sure (I1), and not late unless a binding vouches for it (I2)."""
        pod = self.pod
        if pod is None or not tasks_include(peer, pod, self.cluster.namespaces.get(pod.namespace), perhaps=denies):
            return False
        if denies or not pod.claim.late:
            return True
        worth = worth_of(self.cluster, pod.claim.identity).attestation
        return max(worth, pod.claim.attestation) >= Attestation.BOUND

    def is_host(self) -> bool:
        return not self.is_metadata and self.address in self.cluster.settings.host_addresses

    def in_ranges(self) -> bool:
        settings = self.cluster.settings
        ranges = [*settings.pod_ranges, *settings.service_ranges]
        ranges += [network for node in self.cluster.nodes.values() for network in node.pod_ranges]
        return not self.is_metadata and any(inside(self.address, network) for network in ranges)

    def is_unknown(self) -> bool:
        """In the pod or service ranges, and nobody known has it (P15)."""
        cluster, address = self.cluster, self.address
        known = (
            self.pod is not None
            or address in (*cluster.settings.dns_addresses, *cluster.settings.host_addresses)
            or any(address in item.addresses for item in cluster.services.values())
            or any(address in item.addresses for item in cluster.slices.values())
            or any(address in item.addresses for item in cluster.nodes.values())
        )
        return self.in_ranges() and not known

    def in_entity(self, entity: Entity) -> bool:
        """P12; for `dns` without regard to the port."""
        if self.is_metadata or entity is Entity.METADATA:
            return self.is_metadata and entity is Entity.METADATA
        if entity is Entity.WORLD:
            named = any(self.in_entity(other) for other in Entity if other is not Entity.WORLD)
            return not named and not self._guarded and not self.is_left_out
        return {
            Entity.NODE: self._is_node,
            Entity.CLUSTER: self._in_cluster,
            Entity.KUBE_APISERVER: lambda: self.of_service(APISERVER),
            Entity.DNS: self._is_dns,
            Entity.AIRFLOW: self._is_airflow,
        }[entity]()

    def may_be_named(self) -> bool:
        """May a DNS name lead there (S4)?"""
        never = {Entity.METADATA, Entity.NODE, Entity.CLUSTER}
        having = {entity for entity in Entity if self.in_entity(entity)}
        return bool(having) and not having & never and not self.is_left_out

    def _is_node(self) -> bool:
        nodes = self.cluster.nodes.values()
        return (
            any(self.address in node.addresses for node in nodes)
            or self.address in self.cluster.settings.host_addresses
            or any(inside(self.address, network) for network in ranges.LOOPBACK)
        )

    def on_link(self) -> bool:
        """What a deny rule that names entity node covers besides: it may reach the node (P12)."""
        return not self.is_metadata and any(inside(self.address, network) for network in ranges.ON_LINK)

    def _in_cluster(self) -> bool:
        services = self.cluster.services.values()
        return self.in_ranges() or self.pod is not None or any(self.address in s.addresses for s in services)

    def _is_dns(self) -> bool:
        settings = self.cluster.settings
        return self.address in settings.dns_addresses or any(self.of_service(name) for name in settings.dns_services)

    def _is_airflow(self) -> bool:
        for destination in self.cluster.settings.airflow:
            peer = destination.peer
            if self.in_cidr(peer) if isinstance(peer, CidrPeer) else self.of_service((peer.namespace, peer.name)):
                return True
        return any(self.of_service((s.namespace, s.name)) for s in self.chart_services())

    def chart_services(self) -> list[Service]:
        namespaces = chart_namespaces(self.cluster)
        return [service for service in self.cluster.services.values() if of_airflow_chart(service, namespaces)]

    def of_service(self, name: Name, *, named: bool = False) -> bool:
        """One of the service's own addresses or of its endpoints'. `named`: for a rule that names the service, which
        means those as well that its author has chosen (P12)."""
        service = self.cluster.services.get(name)
        if self.is_metadata or service is None:
            return False
        own = (*service.addresses, *(service.external if named else ()))
        return self.address in own or any(
            self.address in piece.addresses
            for piece in self.cluster.slices.values()
            if (piece.namespace, piece.service) == name
        )

    def of_portless(self, peer: ServicePeer) -> bool:
        """An endpoint of a service that has no ports (P13)."""
        service = self.cluster.services.get((peer.namespace, peer.name))
        if self.is_metadata or service is None or service.ports:
            return False
        pieces = (p for p in self.cluster.slices.values() if (p.namespace, p.service) == (peer.namespace, peer.name))
        return any(self.address in piece.addresses for piece in pieces)

    def reached(self, peer: ServicePeer, *, named: bool) -> Iterator[Reached]:
        """The service's ports that this address serves, and at which number (P13). `named`: as for of_service."""
        service = self.cluster.services.get((peer.namespace, peer.name))
        if self.is_metadata or service is None:
            return
        if self.address in (*service.addresses, *(service.external if named else ())):
            yield from ((port, port.port) for port in service.ports)
        for piece in self.cluster.slices.values():
            if (piece.namespace, piece.service) == (peer.namespace, peer.name) and self.address in piece.addresses:
                for port in service.ports:
                    for target in piece.ports:
                        if (target.name, target.protocol) == (port.name, port.protocol):
                            yield port, target.port
