"""What should be in the kernel maps: the output of the compiler, in values, not bytes.

How the kernel uses it (bpf/judge.c). For a packet of ruleset R, peer address A, port index P and direction D:

1. (peer class, base class) of A: exact in `hosts`, else longest prefix in `peers`.
2. The rule with the longest prefix around P of (R, peer class, D) decides; without any, that of (R, base class, D);
3. else the ruleset's default of direction D.
4. Egress, and what decided has a `lift`: for each DNS name by which the endpoint's identity knows A, the peer class C
   of the name's longest suffix in `names`, and the rule with the longest prefix around P of (R, C, D); the best of
   these verdicts decides, if it is better.
5. A row with `hellos` holds for connections that begin with a TLS ClientHello for which the longest node of (R,
   server name) in `servers` has one of these bits; any other is denied, or reported (`audits_hello`). Rows are judged
   so each by itself, before the best of them decides.
6. A row with `requests` holds for requests of HTTP/1 that have one of these bits: in `servers` by their host, and in
   `parts` by method, path from its beginning, path from its end, and the port that a proxy is asked for. A row with
   both holds for connections of either kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, NewType

from agent.model.binding import Contradiction
from agent.model.cluster import Address
from agent.model.identity import Attestation, Identity, PodUid
from agent.model.policy import PolicyRef
from agent.model.protocol import WITH_PORTS, IpProtocol
from agent.model.verdict import Direction, DropReason, EndpointState, Verdict

PeerClass = NewType("PeerClass", int)
RulesetId = NewType("RulesetId", int)
RuleId = NewType("RuleId", int)

NO_CLASS = PeerClass(0)
"""Class of an address that is in no peer set at all."""

NO_RULE_ID = RuleId(0)

Prefix = tuple[int, int]
"""(128-bit address with IPv4 mapped into ::ffff:0:0/96, prefix length 0..128); host bits are zero."""

Host = int
"""128-bit address, IPv4 mapped."""

NameNode = str
"""A DNS name in lower case, or `*.` and one: every longer name that ends in it, unless a longer node is its own."""

ServerNode = tuple[RulesetId, NameNode]
"""A ruleset, and a node among the server names that its rules with `tls` name; "": every name."""

PartNode = tuple[RulesetId, bytes]
"""A ruleset, and a part of requests that its rules with `http` tell from others (agent/compiler/parts.py)."""

PortIndex = int
"""Protocol and port as one number of 32 bits: see port_index."""

PortPrefix = tuple[int, int]
"""(first port index, prefix length 0..32)."""

PORT_BITS = 32
PORT_INDEXES = 1 << PORT_BITS
FIRST_ORDINARY = 1 << 31
_ORDINARY: dict[int, int] = {
    protocol: (FIRST_ORDINARY >> 16) + i
    for i, protocol in enumerate((IpProtocol.TCP, IpProtocol.UDP, IpProtocol.ICMP, IpProtocol.ICMPV6))
}


def port_index(protocol: int, port: int = 0) -> PortIndex:
    """The upper half: the protocol, with the four of a rule without `ports` (P4) behind one prefix of one bit. The
    lower half: the port; 0 of a protocol that has none."""
    return _ORDINARY.get(protocol, protocol) << 16 | (port if protocol in WITH_PORTS else 0)


@dataclass(frozen=True, slots=True)
class Classes:
    """Of an address: its peer class, and the class of the entities alone that it belongs to.

    `of_host`: it is one of this host's own, from which pods on the host's network may send. `of_dns`: a DNS server's,
    whose answers are learned from.
    """

    peer: PeerClass
    base: PeerClass
    of_host: bool = False
    of_dns: bool = False


class RuleKey(NamedTuple):
    """Key of `rules`."""

    ruleset: RulesetId
    peer_class: PeerClass
    direction: Direction
    ports: PortPrefix


class Lift(IntEnum):
    """What a verdict on an address becomes where a name allows: bpf/types.h has the same numbers."""

    NONE = 0  # what it is
    BY_NAME = 1  # the name's
    TO_AUDIT = 2  # AUDIT by the row's `rule`: a deny rule of a policy in audit, which no name lifts (P3)
    TO_ALLOW = 3  # of AUDIT: ALLOW by the row's `rule`, which allows the address already; not lifted it has no rule


@dataclass(frozen=True, slots=True)
class RuleValue:
    """Value of `rules`: a verdict, and who is to blame. With AUDIT, reason and rule are the denial's."""

    verdict: Verdict
    reason: DropReason = DropReason.NONE
    rule: RuleId = NO_RULE_ID
    lift: Lift = Lift.NONE
    hellos: int = 0  # bits of what a connection may begin with
    requests: int = 0  # bits of the requests that it may carry; with no `hellos` either, it may carry anything
    audits_hello: bool = False  # what begins otherwise, or other requests, are reported only (P3)

    @property
    def demands(self) -> bool:
        return bool(self.hellos or self.requests)


@dataclass(frozen=True, slots=True)
class Tunnels:
    """What a hello inside of a tunnel leaves of RuleValue.requests: those to which `any` bytes will do; with these,
    as in Servers, those to which one with this name will do, one without, or an encrypted one."""

    any: int = 0
    named: int = 0
    nameless: int = 0
    encrypted: int = 0


NO_TUNNELS = Tunnels()


@dataclass(frozen=True, slots=True)
class Servers:
    """What a ruleset's rules with `tls` make of a server name, as bits of RuleValue.hellos: `named` of this name;
    `nameless` of a hello without any; `encrypted` of one whose true name is hidden, and `start_tls` of one behind an
    SSLRequest, beside either of these. `hosts`: those with `http` of a host of this name, as bits of
    RuleValue.requests.
    """

    named: int
    nameless: int = 0
    encrypted: int = 0
    hosts: int = 0
    start_tls: int = 0
    tunnels: Tunnels = NO_TUNNELS


@dataclass(frozen=True, slots=True)
class Parts:
    """What a part of a request leaves, as bits of RuleValue.requests. `from_behind`: those whose path is looked
    at from its end too."""

    bits: int
    from_behind: int = 0


@dataclass(frozen=True, slots=True)
class Sockets:
    """Sockets that need permission: `raw` grants raw IP sockets; `audit` only reports what has none (P3)."""

    raw: bool = False
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What a ruleset has beside its rules; `defaults` by direction. `names`: it has rules on DNS names. `hellos`:
    it has rules with `tls` or `http` that are enforced."""

    defaults: tuple[RuleValue, RuleValue]
    sockets: Sockets = Sockets()
    names: bool = False
    hellos: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an endpoint is to be. Only the first five reach the kernel."""

    identity: Identity
    state: EndpointState
    ruleset: RulesetId  # 0 where the state needs none
    host_network: bool = False
    addresses: tuple[Address, ...] = ()  # the pod's own: what it sends itself is not judged (P7)
    attestation: Attestation = Attestation.CLAIMED  # what the claim is worth (I4)
    binding: str = ""  # TaskIdentityBinding that vouches for the claim, or that it contradicts (I5)
    contradiction: Contradiction | None = None  # of the claim; the state shows whether that is enforced
    policies: tuple[PolicyRef, ...] = ()  # that select it, for reports


@dataclass(slots=True)
class Want:
    """The whole of it. Written by the compiler only."""

    peers: dict[Prefix, Classes] = field(default_factory=dict)
    hosts: dict[Host, Classes] = field(default_factory=dict)
    names: dict[NameNode, Classes] = field(default_factory=dict)
    servers: dict[ServerNode, Servers] = field(default_factory=dict)
    parts: dict[PartNode, Parts] = field(default_factory=dict)
    rules: dict[RuleKey, RuleValue] = field(default_factory=dict)
    rulesets: dict[RulesetId, Ruleset] = field(default_factory=dict)
    assignments: dict[PodUid, Assignment] = field(default_factory=dict)


@dataclass(slots=True)
class Delta:
    """What one step of the compiler changed in Want. None stands for a deletion.

    `revoked`: rulesets in which something that was allowed may no longer be; every endpoint that has one of them
    needs a new epoch (P10). Pure additions are not in it. An endpoint whose assignment changes its ruleset or its
    state needs a new epoch as well, and is not listed here. `held`: endpoints that get another ruleset while an
    address becomes something that their old one allows: they must be pending from before the first address moves
    until they have the new one, or a packet would pass that neither snapshot allows. `sizes`: entries of peers,
    hosts, names, servers, parts and rules when the step is done.
    """

    peers: dict[Prefix, Classes | None] = field(default_factory=dict)
    hosts: dict[Host, Classes | None] = field(default_factory=dict)
    names: dict[NameNode, Classes | None] = field(default_factory=dict)
    servers: dict[ServerNode, Servers | None] = field(default_factory=dict)
    parts: dict[PartNode, Parts | None] = field(default_factory=dict)
    rules: dict[RuleKey, RuleValue | None] = field(default_factory=dict)
    rulesets: dict[RulesetId, Ruleset | None] = field(default_factory=dict)
    assignments: dict[PodUid, Assignment | None] = field(default_factory=dict)
    revoked: set[RulesetId] = field(default_factory=set)
    held: set[PodUid] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
