"""What the sources know about the cluster, as one immutable snapshot.

Collections are `immutables.Map`, so that a snapshot with one changed pod shares everything else with the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from immutables import Map

from agent.model.binding import TaskIdentityBinding
from agent.model.external import ExternalIdentity
from agent.model.identity import Claim, PodUid
from agent.model.network_policy import NetworkPolicy
from agent.model.policy import CidrPeer, DefaultPosture, Entity, Network, Policy, PolicyRef, PortMatch, ServicePeer

Address = IPv4Address | IPv6Address
Name = tuple[str, str]
"""(namespace, name)"""

NODE_LOCAL_DNS: tuple[Address, ...] = (ip_address("169.254.20.10"), ip_address("169.254.25.10"))
"""Where NodeLocal DNSCache listens, by its own manifests and by kubespray's (P12)."""


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A named port of a pod's container."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Escape:
    """A way out of its cgroup that a pod has, so that the kernel cannot hold it (L8), by the word for it in a Pod:
    `privileged`, `NET_RAW`, `hostPID`, `hostPath`."""

    way: str
    path: str = ""  # of a hostPath

    def __str__(self) -> str:
        return f"{self.way} {self.path}" if self.path else self.way


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, of this node or another. Secrets, args and env never get here (S2)."""

    uid: PodUid
    namespace: str
    name: str
    claim: Claim  # frozen at first sight (I2)
    labels: tuple[tuple[str, str], ...] = ()  # live
    addresses: tuple[Address, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    node: str = ""
    host_network: bool = False
    finished: bool = False  # phase Succeeded or Failed: its address may be someone else's
    terminating: bool = False  # deleted, but not gone yet
    created: float = 0.0  # seconds since the epoch
    escapes: tuple[Escape, ...] = ()  # most severe first
    external: tuple[ExternalIdentity, ...] = ()  # who it is outside of the cluster by its annotations and tokens
    cgroup_uids: tuple[PodUid, ...] = ()  # what its folder may be named after: uid; a static pod's hash


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace; `managed` by label or by the agent's flags."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    managed: bool = False
    default_posture: DefaultPosture | None = None  # None: the agent's
    baseline: tuple[Entity, ...] | None = None  # None: the agent's
    terminating: bool = False  # it is being deleted, and what is in it goes before it
    uid: str = ""  # a namespace that is made again has another one; manifests have none


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a service. `target` is a number, a container port's name, or None for the same number."""

    name: str
    protocol: int
    port: int
    target: int | str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A service at its ports. Who may write it chooses `external`, so that only a rule that names it counts them."""

    namespace: str
    name: str
    addresses: tuple[Address, ...] = ()  # the cluster's, which the API server gives out
    ports: tuple[ServicePort, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    external: tuple[Address, ...] = ()  # spec.externalIPs and of load balancers


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Where a service's traffic ends: `addresses` at `ports` (name of the service's port, protocol, number)."""

    namespace: str
    name: str
    service: str
    addresses: tuple[Address, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    waiting: frozenset[Address] = frozenset()  # of `addresses`: not ready, so that no new connection is sent there
    cut: bool = False  # there are others, for which there is no room (P17): nobody knows where the service leads


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service account, and who its pods are outside of the cluster by its annotations."""

    namespace: str
    name: str
    external: tuple[ExternalIdentity, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster."""

    name: str
    addresses: tuple[Address, ...] = ()
    pod_ranges: tuple[Network, ...] = ()
    tainted: bool = False  # dagwall.io/agent-not-ready


@dataclass(frozen=True, slots=True)
class Destination:
    """A configured destination of an entity: a CIDR or a service, at these ports (None: by P4 and P13)."""

    peer: CidrPeer | ServicePeer
    ports: tuple[PortMatch, ...] | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of the agent's flags and configuration that concerns policy."""

    cluster: str = "default"
    node: str = ""
    default_posture: DefaultPosture = DefaultPosture.OBSERVE
    audit_everything: bool = False  # --posture audit (P3)
    baseline: tuple[Entity, ...] = (Entity.AIRFLOW, Entity.DNS)
    pod_ranges: tuple[Network, ...] = ()
    service_ranges: tuple[Network, ...] = ()
    metadata: tuple[Address, ...] = ()
    dns: tuple[Address, ...] = NODE_LOCAL_DNS  # besides the cluster's DNS service
    dns_services: tuple[Name, ...] = (("kube-system", "kube-dns"),)
    airflow: tuple[Destination, ...] = ()
    airflow_namespaces: tuple[str, ...] | None = None  # where the chart's services count (None: the managed ones)
    host_addresses: tuple[Address, ...] = ()  # of this host, as its pods see it
    host_dns: tuple[Address, ...] = ()  # where node-local DNS listens on this host
    network_policy: bool = False  # --network-policy: NetworkPolicies are a layer of their own (P1)
    metrics_port: int = 0  # where the nodes' agents serve their metrics; 0: nowhere (S3)

    @property
    def dns_addresses(self) -> tuple[Address, ...]:
        """Of entity `dns`, besides the DNS services' (P12)."""
        return (*self.dns, *self.host_dns)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything at one revision. `complete`: the sources have listed all there is, so absence means something."""

    revision: int = 0
    complete: bool = False
    pods: Map[PodUid, Pod] = field(default_factory=Map)
    left_out: Map[PodUid, Pod] = field(default_factory=Map)  # known by their addresses only, for want of room (P17)
    namespaces: Map[str, Namespace] = field(default_factory=Map)
    services: Map[Name, Service] = field(default_factory=Map)
    slices: Map[Name, EndpointSlice] = field(default_factory=Map)
    service_accounts: Map[Name, ServiceAccount] = field(default_factory=Map)
    nodes: Map[str, Node] = field(default_factory=Map)
    policies: Map[PolicyRef, Policy] = field(default_factory=Map)
    network_policies: Map[PolicyRef, NetworkPolicy] = field(default_factory=Map)
    bindings: Map[str, TaskIdentityBinding] = field(default_factory=Map)
    settings: Settings = field(default_factory=Settings)

    def pod_name(self, uid: PodUid) -> str:
        """For people: namespace/name, or the uid of a pod that no source has."""
        pod = self.pods.get(uid)
        return f"{pod.namespace}/{pod.name}" if pod else uid
