"""What happened on the wire, after decoding and joining with the snapshot: the input of every output."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from agent.model.cluster import Address
from agent.model.identity import Attestation, Claim, Identity
from agent.model.verdict import Direction, DropReason, Hook, Verdict


class PeerKind(str, Enum):
    """What a peer's name is the name of; metrics and logs never use a raw address as a name."""

    POD = "pod"
    SERVICE = "service"
    ENTITY = "entity"
    FQDN = "fqdn"
    CIDR = "cidr"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PeerName:
    """What people call a peer: `db/postgres`, `world`, `10.1.0.0/16`. Of low cardinality, unlike its address."""

    kind: PeerKind
    name: str
    identity: Identity | None = None  # where the peer is a task

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """The endpoint of a flow, as reports name it."""

    identity: Identity
    number: int
    namespace: str
    pod: str
    uid: str
    claim: Claim | None = None
    node: str = ""
    attestation: Attestation = Attestation.CLAIMED  # what the claim is worth here (I4)


@dataclass(frozen=True, slots=True)
class Tuple:
    """Address and ports of one flow, seen from the endpoint."""

    peer: Address
    protocol: int
    service_port: int  # the peer's for egress, ours for ingress; 0 for protocols without ports
    direction: Direction


@dataclass(frozen=True, slots=True)
class FlowCounts:
    """Growth since the last drain: packets, bytes, connections."""

    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow's growth in one drain interval, with all that reports need; `time` in seconds since the epoch."""

    time: float
    endpoint: EndpointFacts
    tuple: Tuple
    peer: PeerName
    verdict: Verdict
    rule: str  # RuleRef as text; "" where none
    counts: FlowCounts
    new: bool  # first report of this flow


@dataclass(frozen=True, slots=True)
class Denial:
    """One denial, or audit, as the ring buffer reported it, explained (R1)."""

    time: float
    endpoint: EndpointFacts
    tuple: Tuple
    peer: PeerName
    verdict: Verdict
    reason: DropReason
    rule: str  # the deny rule or "" for "no rule"
    hook: Hook
    cgroup_id: int
    socket_cookie: int = 0
    source_port: int = 0
    opened_by: EndpointFacts | None = None  # another endpoint's process used this socket (L7)
    nearest: str = ""  # the rule that comes closest, and what it lacks
    family: int = 0  # AF_ number of a socket that was asked for, where the hook is SOCKET_CREATE
    extra: dict[str, str] = field(default_factory=dict)
