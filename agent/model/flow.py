"""What happened on the wire, after decoding and joining with the snapshot: the input of every output."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agent.model.binding import Contradiction
from agent.model.cluster import Address
from agent.model.external import ExternalIdentity
from agent.model.identity import Attestation, Claim, Identity
from agent.model.nearest import Nearest
from agent.model.policy import RuleRef
from agent.model.request import Request
from agent.model.verdict import Cause, Direction, DropReason, Hook, Verdict


class PeerKind(str, Enum):
    """What a peer's name is the name of; metrics and logs never use a raw address as a name."""

    POD = "pod"
    SERVICE = "service"
    ENTITY = "entity"
    FQDN = "fqdn"
    CIDR = "cidr"
    UNKNOWN = "unknown"


class Place(Enum):
    """Where an address is, for readers that know such places by numbers."""

    ELSEWHERE = "elsewhere"
    THIS_NODE = "this node"
    OTHER_NODE = "another node"
    API_SERVER = "API server"


@dataclass(frozen=True, slots=True)
class PeerName:
    """What people call a peer: `db/postgres`, `world`, `10.1.0.0/16`. Of low cardinality, unlike its address.

    `identity` and `pod` are those of the pod that has the address, also where the name is that of its service.
    """

    kind: PeerKind
    name: str
    identity: Identity | None = None
    pod: str = ""  # its name, in the identity's namespace
    place: Place = Place.ELSEWHERE

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
    addresses: tuple[Address, ...] = ()  # of the pod, as far as they are known
    slot: int = 0  # 0: none
    external: tuple[ExternalIdentity, ...] = ()  # who it is outside of the cluster, as its operators wrote it


@dataclass(frozen=True, slots=True)
class Tuple:
    """Address and ports of one flow, seen from the endpoint."""

    peer: Address
    protocol: int
    service_port: int  # the peer's for egress, ours for ingress; 0 for protocols without ports
    direction: Direction


NO_ANSWER = "NO_ANSWER"
"""In place of an rcode: the server was silent, and which names it was asked for nobody knows."""


@dataclass(frozen=True, slots=True)
class FailedLookup:
    """A name that an endpoint asked a DNS server for in vain."""

    time: float  # seconds since the epoch
    endpoint: EndpointFacts
    server: Tuple
    peer: PeerName  # the server's
    name: str
    record: str  # A or AAAA
    rcode: str  # NXDOMAIN, SERVFAIL, REFUSED, ... (RFC 6895), or NO_ANSWER

    @property
    def tuple(self) -> Tuple:
        """The question's flow, as other values call it."""
        return self.server


class RuleMatch(Enum):
    """What the rule of a verdict looks at; NONE where no rule decided."""

    NONE = "none"
    PEER = "peer"
    PEER_AND_PORT = "peer and port"
    PORT = "port"
    ALL = "all"
    PEER_AND_PROTOCOL = "peer and protocol"
    PROTOCOL = "protocol"


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
    """One flow's growth in one drain interval, with all that reports need.

    `time`: of its last packet, in seconds since the epoch. `reason`: of a flow that passes in audit.
    """

    time: float
    endpoint: EndpointFacts
    tuple: Tuple
    peer: PeerName
    verdict: Verdict
    rule: RuleRef | None
    counts: FlowCounts
    new: bool  # first report of this flow
    reason: DropReason = DropReason.NONE
    match: RuleMatch = RuleMatch.NONE
    source_port: int = 0  # of who opened, where one flow has one


@dataclass(frozen=True, slots=True)
class Denial:
    """One denial, or audit, as the ring buffer reported it, explained (R1)."""

    time: float
    endpoint: EndpointFacts
    tuple: Tuple
    peer: PeerName
    verdict: Verdict
    reason: DropReason
    rule: RuleRef | None  # the deny rule; None for "no rule"
    hook: Hook
    cgroup_id: int
    socket_cookie: int = 0
    source_port: int = 0
    opened_by: EndpointFacts | None = None  # another endpoint's process used this socket (L7)
    nearest: Nearest | None = None
    family: int = 0  # AF_ number of a socket that was asked for, where the hook is SOCKET_CREATE
    contradiction: Contradiction | None = None  # of a pod in quarantine (I5)
    match: RuleMatch = RuleMatch.NONE
    pid: int = 0  # of the process that called, as the node numbers it; 0 where the hook does not know it
    comm: str = ""  # its thread's name; "" likewise
    request: Request | None = None  # of HTTP, as far as it was read; its method is "" where it is none


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one TCP connection, in seconds; None: it never came so far."""

    lasted: float  # from connect() to the report
    handshake: float | None = None
    first_byte: float | None = None  # from the handshake to the first byte that the peer sent
    round_trip: float | None = None  # smoothed, as the kernel has it at the end
    retransmits: int = 0  # segments that were sent again


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a TCP connection that an endpoint opened and that was let pass.

    `detail`: an errno, the number of a TLS alert or the status of an HTTP answer, as `cause` says; 0: none.
    """

    time: float  # seconds since the epoch
    endpoint: EndpointFacts
    tuple: Tuple
    peer: PeerName
    cause: Cause
    detail: int
    rule: RuleRef | None  # that let it pass
    timing: Timing
    source_port: int = 0
    pid: int = 0  # of who called connect()
    comm: str = ""

    @property
    def failed(self) -> bool:
        return self.cause is not Cause.NONE
