"""The layer of NetworkPolicy, word for word and slowly: the other half of judge.py (P1, P13)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from typing_extensions import assert_never

from agent.judge.address import Facts, matches_number
from agent.judge.packet import Ends
from agent.model.cluster import Address, Service
from agent.model.nearest import Lacks, Nearest
from agent.model.network_policy import LivePodPeer, NetworkPolicy, NetworkPolicyRule
from agent.model.policy import CidrPeer, PortMatch, RuleRef
from agent.model.verdict import Direction


@dataclass(frozen=True, slots=True)
class Found:
    """A rule by its place in the order of names and of rules."""

    place: int
    rule: RuleRef


@dataclass(frozen=True, slots=True)
class NativeCase(Ends):
    """One packet before NetworkPolicies."""

    def selected(self) -> list[NetworkPolicy]:
        """By live labels, in the pod's namespace; a hostNetwork pod's traffic is the node's."""
        if not self.cluster.settings.network_policy or self.pod.host_network:
            return []
        labels = dict(self.pod.labels)
        return [
            policy
            for ref, policy in sorted(self.cluster.network_policies.items())
            if ref.namespace == self.pod.namespace and policy.pod_selector.matches(labels)
        ]

    def isolated(self) -> bool:
        return any(policy.speaks_about(self.direction) is not None for policy in self.selected())

    def rules(self) -> Iterator[tuple[Found, NetworkPolicyRule]]:
        rules = (
            (RuleRef(policy.ref, rule.name), rule)
            for policy in self.selected()
            for rule in policy.speaks_about(self.direction) or ()
        )
        return ((Found(place, ref), rule) for place, (ref, rule) in enumerate(rules))

    def allowing(self) -> list[RuleRef]:
        """Rules that allow it, the first by order first."""
        found = [each for each, rule in self.rules() if self._allows(rule, self.peer, self.port)]
        served = self._served()
        found += [served] if served is not None and served not in found else []
        return [each.rule for each in sorted(found, key=lambda each: each.place)]

    def nearest(self) -> Nearest | None:
        """The rule that comes closest, and what it lacks: the port, or what its `except` leaves out."""
        found: list[tuple[int, Nearest]] = []
        port, left_out = Lacks(protocol=self.protocol, port=self.port), Lacks(left_out=self.peer.address)
        for each, rule in self.rules():
            if self._has(rule, self.peer):
                found.append((0, Nearest(each.rule, port)))
            elif any(self.peer.left_out_of(peer) for peer in rule.peers or ()):
                at = self._at(rule.ports, self.peer, self.port)
                lacks = left_out if at else replace(port, left_out=self.peer.address)
                found.append((1 if at else 2, Nearest(each.rule, lacks)))
        return min(found, key=lambda each: each[0])[1] if found else None

    def note(self) -> str:
        """Where some endpoints of a service would be allowed and others not (P13): a sentence."""
        ends = self._ends() if self.direction is Direction.EGRESS else []
        passing = [end for end in ends if self._first(*end) is not None]
        if not passing or len(passing) == len(ends):
            return ""
        refused = ", ".join(f"{address}:{port}" for address, port in ends if (address, port) not in passing)
        return f"of {len(ends)} ready endpoints behind {self.peer.address}:{self.port}, not allowed are {refused}"

    def _served(self) -> Found | None:
        """P13: a service's address is allowed if every ready endpoint behind it is."""
        ends = self._ends() if self.direction is Direction.EGRESS else []
        found = [self._first(*end) for end in ends]
        first = min((each for each in found if each is not None), key=lambda each: each.place, default=None)
        return None if None in found else first

    def _ends(self) -> list[tuple[Address, int]]:
        """Endpoints, and their ports, where a connection to this address and port may end: ready ones, if any is."""
        found, ready = [], []
        for service in [] if self.peer.is_metadata else self.cluster.services.values():
            ports = [p for p in service.ports if (p.protocol, p.port) == (self.protocol, self.port)]
            if self.peer.address not in service.addresses or not ports or self._is_cut(service):
                continue
            for piece in self.cluster.slices.values():
                if (piece.namespace, piece.service) == (service.namespace, service.name):
                    numbers = [
                        t.port for t in piece.ports for p in ports if (t.name, t.protocol) == (p.name, p.protocol)
                    ]
                    ends = [(address, number) for number in numbers for address in piece.addresses]
                    found += ends
                    ready += [end for end in ends if end[0] not in piece.waiting]
        return sorted(set(ready or found), key=str)

    def _is_cut(self, service: Service) -> bool:
        """Are there endpoints that nobody knows (P17)?"""
        name = (service.namespace, service.name)
        return any(piece.cut and (piece.namespace, piece.service) == name for piece in self.cluster.slices.values())

    def _first(self, address: Address, port: int) -> Found | None:
        facts = Facts(self.cluster, address)
        return next((each for each, rule in self.rules() if self._allows(rule, facts, port)), None)

    def _allows(self, rule: NetworkPolicyRule, peer: Facts, port: int) -> bool:
        return self._has(rule, peer) and self._at(rule.ports, peer, port)

    def _has(self, rule: NetworkPolicyRule, peer: Facts) -> bool:
        if rule.peers is None:
            return True
        return any(self._is(p, peer) for p in rule.peers)

    def _is(self, meant: CidrPeer | LivePodPeer, peer: Facts) -> bool:
        match meant:
            case CidrPeer():
                return peer.in_block(meant)
            case LivePodPeer():
                return peer.in_pods(meant)
            case _:
                assert_never(meant)

    def _at(self, ports: tuple[PortMatch, ...] | None, peer: Facts, port: int) -> bool:
        """A name is a port of the destination's pod: the peer's for egress, the endpoint's own for ingress."""
        if ports is None:
            return True
        owner = peer.pod if self.direction is Direction.EGRESS else self.pod
        named = {(p.protocol, p.name) for p in owner.ports if p.port == port} if owner else set()
        return any(
            matches_number(m, self.protocol, port) or (m.protocol == self.protocol and (m.protocol, m.name) in named)
            for m in ports
        )
