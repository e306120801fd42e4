"""Policies as written: TaskNetworkPolicy and ClusterTaskNetworkPolicy after parsing (P1 to P18)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from agent.model.identity import Attestation, Kind
from agent.model.selector import LabelSelector
from agent.model.verdict import Direction

Network = IPv4Network | IPv6Network


class Posture(str, Enum):
    """Of a policy: does it decide, or only report what it would decide (P3)."""

    ENFORCE = "enforce"
    AUDIT = "audit"


class DefaultPosture(str, Enum):
    """Of a managed namespace: what happens to directions that no policy speaks about (P5)."""

    OBSERVE = "observe"
    DENY = "deny"


class Entity(str, Enum):
    """Peers that every cluster has (P12)."""

    NODE = "node"
    CLUSTER = "cluster"
    KUBE_APISERVER = "kube-apiserver"
    DNS = "dns"
    AIRFLOW = "airflow"
    METADATA = "metadata"
    WORLD = "world"


@dataclass(frozen=True, slots=True, order=True)
class PolicyRef:
    """Name of a policy object. Cluster policies have an empty namespace; they sort before namespaced ones."""

    namespace: str
    kind: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


@dataclass(frozen=True, slots=True, order=True)
class RuleRef:
    """Name of a rule, as people meet it in events and logs. `rule` is its name, else `egress[3]` and the like."""

    policy: PolicyRef
    rule: str

    def __str__(self) -> str:
        return f"{self.policy}/{self.rule}"


@dataclass(frozen=True, slots=True)
class PortMatch:
    """A protocol, and for TCP, UDP and SCTP a port, a range (both ends included) or a named port."""

    protocol: int  # IPPROTO number
    port: int | None = None
    end_port: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class CidrPeer:
    """Every address of `network` but those of `excluded` and the metadata addresses (P11)."""

    network: Network
    excluded: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class ServicePeer:
    """A service's addresses at its ports and its endpoints at their target ports (P13)."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods by live labels (I2). No namespace selector: the policy's own namespace (in a cluster policy: all)."""

    namespace: str | None  # the only namespace, or None where namespace_selector decides
    namespace_selector: LabelSelector | None
    pod_selector: LabelSelector


@dataclass(frozen=True, slots=True)
class TaskPeer:
    """Pods by what they claim to run. Empty tuples match every id; no namespace: every managed one."""

    dag_ids: tuple[str, ...]
    task_ids: tuple[str, ...]
    namespace: str | None


@dataclass(frozen=True, slots=True)
class EntityPeer:
    """One of the peers that every cluster has."""

    entity: Entity


@dataclass(frozen=True, slots=True)
class FqdnPeer:
    """Addresses that a DNS server gave the endpoint for a name; `*.` in front: for names of one or more labels more.

    `pattern` is in lower case and without a dot at its end. Of metadata, node and cluster addresses it has none (S4).
    """

    pattern: str


Peer = CidrPeer | FqdnPeer | ServicePeer | PodPeer | TaskPeer | EntityPeer


class StartTls(Enum):
    """How a client asks its server for TLS before it begins with it."""

    POSTGRES = "postgres"  # SSLRequest (PostgreSQL, Message Formats)


@dataclass(frozen=True, slots=True)
class Tls:
    """What a connection must begin with: a TLS ClientHello whose server name one of `names` matches; none: any name.

    Patterns as FqdnPeer has them. `nameless`: a hello without a server name will do. `encrypted`: one with
    encrypted_client_hello will do, judged by its outer name. `start_tls`: what comes before the hello, exactly; None:
    nothing.
    """

    names: tuple[str, ...] = ()
    nameless: bool = False
    encrypted: bool = False
    start_tls: StartTls | None = None


@dataclass(frozen=True, slots=True)
class HttpMatch:
    """A request that a connection may carry. No `methods`: every one but CONNECT. `host`: as FqdnPeer has patterns;
    "": every host. `path`: in normal form, with one `*` at most; "": every path. `port`: of whom a proxy is asked to
    reach; None: 443 with CONNECT, else 80. `inside`: what a tunnel that it opens must begin with; None: anything.
    """

    methods: tuple[str, ...] = ()
    host: str = ""
    path: str = ""
    port: int | None = None
    inside: Tls | None = None


Demand = Tls | HttpMatch
"""What a rule asks of a connection beyond its peer and port."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Any of `peers` and any of `ports` (P4). None: every peer, or every port of TCP, UDP, ICMP, ICMPv6.

    `tls` or `http`: of egress, with ports of TCP only. `http`: each request is one of these; none: any bytes.
    """

    name: str
    direction: Direction
    peers: tuple[Peer, ...] | None
    ports: tuple[PortMatch, ...] | None
    reason: str = ""  # deny rules: what the author wants read when it strikes
    tls: Tls | None = None
    http: tuple[HttpMatch, ...] = ()

    @property
    def demands(self) -> tuple[Demand, ...]:
        """What is allowed is any of these; none: anything."""
        return (self.tls,) if self.tls is not None else self.http


@dataclass(frozen=True, slots=True)
class Subject:
    """Which pods a policy speaks about: all given fields must match; none given selects all (I3)."""

    service_accounts: tuple[str, ...] = ()
    dag_ids: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None  # ClusterTaskNetworkPolicy only


@dataclass(frozen=True, slots=True)
class Policy:
    """One valid policy object. `egress`/`ingress` None: does not speak about it; (): denies all of it (P4)."""

    ref: PolicyRef
    subject: Subject
    egress: tuple[Rule, ...] | None = None
    ingress: tuple[Rule, ...] | None = None
    deny: tuple[Rule, ...] = ()
    posture: Posture = Posture.ENFORCE
    attestation: Attestation = Attestation.CLAIMED
    raw_sockets: bool = False

    def speaks_about(self, direction: Direction) -> tuple[Rule, ...] | None:
        return self.egress if direction is Direction.EGRESS else self.ingress

    def rules(self) -> Iterator[tuple[str, Rule]]:
        """Every rule, and its place in the spec: `egress[0]`, `deny[1]`."""
        for key, rules in (("egress", self.egress), ("ingress", self.ingress), ("deny", self.deny)):
            for number, rule in enumerate(rules or ()):
                yield f"{key}[{number}]", rule

    def peers(self) -> Iterator[tuple[str, Rule, Peer]]:
        """Every peer that is written, with its place in the spec, `egress[0].to[2]`, and its rule."""
        for place, rule in self.rules():
            side = "to" if rule.direction is Direction.EGRESS else "from"
            for number, peer in enumerate(rule.peers or ()):
                yield f"{place}.{side}[{number}]", rule, peer
