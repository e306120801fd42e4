"""Rules that name a service which matches nothing: valid, and surely not what the author means (P13)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.compiler.services import targets
from agent.model.cluster import Cluster, EndpointSlice, Name
from agent.model.policy import Policy, PolicyRef, Rule, ServicePeer
from agent.model.verdict import Direction


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A sentence about a peer of a policy, and the field where it stands."""

    policy: PolicyRef
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.policy}: {self.field}: {self.text}"


def unmatched_services(cluster: Cluster) -> Iterator[Unmatched]:
    """In the order of policies and of their fields."""
    named = [found for _, policy in sorted(cluster.policies.items()) for found in _service_peers(policy)]
    slices: dict[Name, list[EndpointSlice]] = {}
    for piece in cluster.slices.values() if named else ():
        slices.setdefault((piece.namespace, piece.service), []).append(piece)
    for ref, field, rule, peer in named:
        text = _problem(cluster, slices.get((peer.namespace, peer.name), []), rule, peer)
        if text:
            yield Unmatched(ref, field, text)


def _service_peers(policy: Policy) -> Iterator[tuple[PolicyRef, str, Rule, ServicePeer]]:
    for place, rule, peer in policy.peers():
        if isinstance(peer, ServicePeer):
            yield policy.ref, f"spec.{place}.service", rule, peer


def _problem(cluster: Cluster, pieces: list[EndpointSlice], rule: Rule, peer: ServicePeer) -> str:
    service, name = cluster.services.get((peer.namespace, peer.name)), f"{peer.namespace}/{peer.name}"
    if service is None:
        return f"matches nothing: there is no service {name}"
    ends = [piece for piece in pieces if piece.addresses]
    if not (service.addresses or service.external or ends):
        return f"matches nothing: service {name} has no address and no endpoint (ExternalName, or selects no pod)"
    at_own_ports = bool(service.addresses or service.external) and bool(service.ports)
    at_targets = any(True for piece in ends for _ in targets(service, piece))
    portless = not service.ports and bool(ends)
    if rule.direction is Direction.EGRESS and not (at_own_ports or at_targets or portless):
        return f"matches nothing: no endpoint of service {name} serves one of its ports"
    return ""
