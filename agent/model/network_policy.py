"""Native NetworkPolicy, networking.k8s.io/v1, after parsing: a layer of its own beside dagwall's policies (P1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.model.policy import CidrPeer, PolicyRef, PortMatch
from agent.model.selector import LabelSelector
from agent.model.verdict import Direction


@dataclass(frozen=True, slots=True)
class LivePodPeer:
    """Pods by the labels that they have now, as dagwall's PodPeer (I2)."""

    namespace: str | None  # the only namespace, or None where namespace_selector decides
    namespace_selector: LabelSelector | None
    pod_selector: LabelSelector


@dataclass(frozen=True, slots=True)
class NetworkPolicyRule:
    """Any of `peers` and any of `ports`. None: every address, or every port of every protocol.

    A CIDR means every address in it, pods' and metadata addresses included: P11 does not hold in this layer.
    """

    name: str  # `ingress[0]`
    direction: Direction
    peers: tuple[CidrPeer | LivePodPeer, ...] | None
    ports: tuple[PortMatch, ...] | None


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """One valid object. `egress`/`ingress` None: not among its policyTypes; (): isolates and allows nothing."""

    ref: PolicyRef
    pod_selector: LabelSelector
    egress: tuple[NetworkPolicyRule, ...] | None = None
    ingress: tuple[NetworkPolicyRule, ...] | None = None

    def speaks_about(self, direction: Direction) -> tuple[NetworkPolicyRule, ...] | None:
        return self.egress if direction is Direction.EGRESS else self.ingress

    def rules(self) -> Iterator[NetworkPolicyRule]:
        """Every rule that is written."""
        yield from self.egress or ()
        yield from self.ingress or ()

    def peers(self) -> Iterator[CidrPeer | LivePodPeer]:
        """Every peer that is written."""
        for rule in self.rules():
            yield from rule.peers or ()
