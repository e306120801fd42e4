"""One packet of one endpoint, held against one rule: what the peers and ports of policies mean (P4, P7 to P17)."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import assert_never

from agent.judge.address import Facts, matches_number
from agent.model.cluster import Cluster, Pod
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
from agent.model.protocol import ORDINARY, IpProtocol
from agent.model.verdict import Direction
from agent.semantics.names import matches
from agent.semantics.peers import may_mean_a_pod

Matches = tuple[PortMatch, ...] | None


@dataclass(frozen=True, slots=True)
class Ends:
    """Of a packet, what every layer sees. `port`: the peer's for egress, the pod's own for ingress."""

    cluster: Cluster
    pod: Pod
    direction: Direction
    peer: Facts
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Packet(Ends):
    """Before dagwall's own layer. `names`: by which the pod's identity knows the peer."""

    names: frozenset[str]

    @property
    def from_host(self) -> bool:
        return self.direction is Direction.INGRESS and self.peer.is_host()

    def denies(self, rule: Rule) -> bool:
        if rule.direction is not self.direction:
            return False
        if self.from_host:  # only a rule that names entity node (P8)
            names_node = rule.peers is not None and EntityPeer(Entity.NODE) in rule.peers
            return names_node and self.at(rule.ports)
        if rule.peers is None:
            return self.at(rule.ports)
        return any(self.through(p, rule.ports) or self._denies_more(p, rule.ports) for p in rule.peers)

    def _denies_more(self, peer: Peer, ports: Matches) -> bool:
        """What P11 and P12 keep out of allow rules only, what may be the node, and what may be any pod (P17)."""
        if may_mean_a_pod(peer) and self.peer.is_left_out and self.at(ports, of_any_name=True):
            return True
        match peer:
            case CidrPeer():
                more = self.peer.in_block(peer)
            case TaskPeer():
                more = self.peer.in_tasks(peer, denies=True)
            case EntityPeer():
                more = peer.entity is Entity.NODE and self.peer.on_link()
            case PodPeer() | ServicePeer() | FqdnPeer():
                more = False
            case _:
                assert_never(peer)
        return more and self.at(ports)

    def allows(self, rule: Rule) -> bool:
        """A rule without peers does not reach metadata (P11)."""
        if rule.peers is None:
            return not self.peer.is_metadata and self.at(rule.ports)
        return any(self.through(peer, rule.ports) for peer in rule.peers)

    def at(self, ports: Matches, *, of_any_name: bool = False) -> bool:
        """P4; a name is a port of the peer's pod, or for ingress of the pod itself. `of_any_name`: it may be any port
        of a peer of which only the address is known."""
        if ports is None:
            return self.protocol in ORDINARY
        names = {match.protocol for match in ports if match.name is not None}
        if of_any_name and self.direction is Direction.EGRESS and self.protocol in names:
            return True
        owner = self.peer.pod if self.direction is Direction.EGRESS else self.pod
        named = (
            [(p.protocol, p.name) for p in owner.ports if (p.protocol, p.port) == (self.protocol, self.port)]
            if owner
            else []
        )
        return any(matches_number(m, self.protocol, self.port) or (m.protocol, m.name) in named for m in ports)

    def has(self, peer: Peer) -> bool:
        """Is the address one of the peer's, whatever the port?"""
        match peer:
            case CidrPeer():
                return self.peer.in_cidr(peer)
            case FqdnPeer():
                return self.peer.may_be_named() and any(matches(peer.pattern, name) for name in self.names)
            case PodPeer():
                return self.peer.in_pods(peer)
            case TaskPeer():
                return self.peer.in_tasks(peer)
            case ServicePeer():
                return self.peer.of_service((peer.namespace, peer.name), named=True)
            case EntityPeer():
                return self.peer.in_entity(peer.entity)
            case _:
                assert_never(peer)

    def through(self, peer: Peer, ports: Matches) -> bool:
        """Is this peer meant, at these ports?"""
        egress = self.direction is Direction.EGRESS
        if peer == EntityPeer(Entity.DNS):
            return self.has(peer) and self.protocol in (IpProtocol.TCP, IpProtocol.UDP) and self.port == 53
        if egress and isinstance(peer, ServicePeer):
            return self._served(peer, [ports], named=True) or (self.peer.of_portless(peer) and self.at(ports))
        if egress and peer == EntityPeer(Entity.KUBE_APISERVER):
            return self._served(ServicePeer("default", "kubernetes"), [ports])
        if egress and peer == EntityPeer(Entity.AIRFLOW):
            return self._airflow(ports)
        return self.has(peer) and self.at(ports)

    def _served(self, peer: ServicePeer, filters: list[Matches], *, named: bool = False) -> bool:
        """P13: ports mean the service's; the packet's is the service's or the endpoint's. `named`: not an entity."""
        for port, number in self.peer.reached(peer, named=named):
            if (port.protocol, number) == (self.protocol, self.port) and all(
                ports is None
                or any(
                    matches_number(m, port.protocol, port.port) or (m.protocol, m.name) == (port.protocol, port.name)
                    for m in ports
                )
                for ports in filters
            ):
                return True
        return False

    def _airflow(self, ports: Matches) -> bool:
        """Configured destinations at their own ports, if they name any, and the services of Airflow's chart."""
        for destination in self.cluster.settings.airflow:
            if isinstance(destination.peer, ServicePeer):
                if self._served(destination.peer, [destination.ports, ports]):
                    return True
                if self.peer.of_portless(destination.peer) and self._at_both(destination.ports, ports):
                    return True
            elif self.peer.in_cidr(destination.peer) and self._at_both(destination.ports, ports):
                return True
        return any(self._served(ServicePeer(s.namespace, s.name), [ports]) for s in self.peer.chart_services())

    def _at_both(self, own: Matches, ports: Matches) -> bool:
        """Where the destination and the rule both name ports, names of ports count in neither."""
        if own is None or ports is None:
            return self.at(own if ports is None else ports)
        return all(any(matches_number(m, self.protocol, self.port) for m in each) for each in (own, ports))
