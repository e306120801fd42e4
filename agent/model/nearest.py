"""The allow rule that comes closest to a denied packet, and what it lacks (R1)."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.cluster import Address
from agent.model.identity import Attestation
from agent.model.policy import RuleRef


@dataclass(frozen=True, slots=True)
class Lacks:
    """What a rule would have to have to allow the packet; all that is set, together.

    `attestation`: the pod's claim is worth less than the policy asks for (I4). `exact_id`: a pattern may match an id
    of which only a hash is known (I1). `enforcement`: its policy is in audit (P3). `protocol` and `port`: of the
    packet, among its ports. `metadata`: it has no peers, and that reaches no metadata address (P11). `left_out`: the
    address, which its `except` takes out.
    """

    attestation: Attestation | None = None
    exact_id: bool = False
    enforcement: bool = False
    protocol: int | None = None
    port: int = 0
    metadata: bool = False
    left_out: Address | None = None


@dataclass(frozen=True, slots=True)
class Nearest:
    """The rule, and what it lacks."""

    rule: RuleRef
    lacks: Lacks
