"""Peers and ports of a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_network

from agent.model.policy import (
    CidrPeer,
    Network,
    PodPeer,
    PortMatch,
    ServicePeer,
    TaskPeer,
)
from agent.model.protocol import WITH_PORTS, IpProtocol
from agent.model.selector import LabelSelector
from agent.parse.fields import Field
from agent.parse.schema_words import FQDN_PATTERN
from agent.parse.selectors import parse_ids, parse_selector, parse_subdomain

PROTOCOLS = {
    **{protocol.name: int(protocol) for protocol in WITH_PORTS},
    "ICMP": int(IpProtocol.ICMP),
    "ICMPv6": int(IpProtocol.ICMPV6),
    "IGMP": int(IpProtocol.IGMP),
    "GRE": 47,
    "ESP": 50,
    "AH": 51,
    "UDPLite": 136,
}
MAX_PORT = 65535
MAPPED = IPv6Network("::ffff:0:0/96")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
_FQDN = re.compile(FQDN_PATTERN)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a policy stands: its namespace, or None for a cluster policy. `names`: in a rule that may name peers by
    DNS names."""

    namespace: str | None
    names: bool = False

    def own(self, field: Field, what: str) -> str:
        """A namespace field that means the policy's own where it is absent."""
        if not field.absent:
            return parse_subdomain(field)
        if self.namespace is None:
            raise field.error(f"must name the {what}'s namespace, since a cluster policy has none of its own")
        return self.namespace


def service_peer(field: Field, scope: Scope) -> ServicePeer:
    value = field.child("service")
    value.mapping("namespace", "name")
    return ServicePeer(scope.own(value.child("namespace"), "service"), parse_subdomain(value.child("name")))


def parse_fqdn(field: Field) -> str:
    """A name, or `*.` and a name."""
    name = field.nonempty()
    if len(name) > 254 or not _FQDN.fullmatch(name):
        raise field.error(f"{name[:60]!r} is no DNS name; allowed: a name, or '*.' and a name")
    return name


def parse_network(field: Field) -> Network:
    """A CIDR without host bits; IPv4 is written as IPv4."""
    text = field.nonempty()
    try:
        network = ip_network(text, strict=False)
    except ValueError as exc:
        raise field.error(f"{text[:60]!r} is no CIDR; allowed: such as 10.0.0.0/8 or 2001:db8::/32") from exc
    if "/" not in text:
        raise field.error(f"{text!r} has no prefix length; write {network} for the one address")
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        inner = IPv6Address(int(network.network_address)).ipv4_mapped
        raise field.error(f"{text!r} is IPv4 in IPv6 clothes; write IPv4 as {inner}/{network.prefixlen - 96}")
    if ip_network(text, strict=False) != _literal(text):
        raise field.error(f"{text!r} has host bits set; the network is {network}")
    return network


def _literal(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def cidr_peer(field: Field, _: Scope) -> CidrPeer:
    network = parse_network(field.child("cidr"))
    excluded = []
    for item in field.child("except").optional_items():
        hole = parse_network(item)
        inside = hole.version == network.version and hole.subnet_of(network)  # type: ignore[arg-type]
        if not inside or hole == network:
            raise item.error(f"{hole} must lie inside {network} and be smaller")
        excluded.append(hole)
    return CidrPeer(network, tuple(sorted(set(excluded), key=lambda n: (int(n.network_address), n.prefixlen))))


def pod_peer(entry: Field, scope: Scope) -> PodPeer:
    field = entry.child("pods")
    field.mapping("namespaceSelector", "podSelector")
    if not field.has("namespaceSelector") and not field.has("podSelector"):
        raise field.error("must have podSelector, namespaceSelector or both; {} as their value selects everything")
    namespaces, pods = field.child("namespaceSelector"), field.child("podSelector")
    selector = None if namespaces.absent else parse_selector(namespaces)
    return PodPeer(
        namespace=scope.namespace if selector is None else None,
        namespace_selector=selector,
        pod_selector=LabelSelector() if pods.absent else parse_selector(pods),
    )


def task_peer(entry: Field, scope: Scope) -> TaskPeer:
    field = entry.child("tasks")
    field.mapping("dagIds", "taskIds", "namespace")
    namespace = field.child("namespace")
    return TaskPeer(
        dag_ids=parse_ids(field.child("dagIds")),
        task_ids=parse_ids(field.child("taskIds")),
        namespace=scope.namespace if namespace.absent else parse_subdomain(namespace),
    )


def parse_port(field: Field) -> PortMatch:
    """A protocol (TCP where absent) with a port, a range, a named port, or all of its ports."""
    field.mapping("protocol", "port", "endPort")
    protocol = _protocol(field.child("protocol"))
    port, end = field.child("port"), field.child("endPort")
    if protocol not in WITH_PORTS and not (port.absent and end.absent):
        raise (end if port.absent else port).error(f"protocol {field.child('protocol').value} has no ports")
    if port.absent:
        if not end.absent:
            raise end.error("needs port, the first of the range")
        if field.child("protocol").absent:
            raise field.error("must have protocol, port or both")
        return PortMatch(protocol)
    if isinstance(port.value, str):
        if not _PORT_NAME.fullmatch(port.value) or "--" in port.value:
            raise port.error(f"{port.value[:60]!r} is neither a number nor a port's name (1 to 15 of a-z, 0-9, '-')")
        if not end.absent:
            raise end.error("a named port has no range")
        return PortMatch(protocol, name=port.value)
    first = port.integer(1, MAX_PORT)
    if end.absent:
        return PortMatch(protocol, first)
    last = end.integer(1, MAX_PORT)
    if last < first:
        raise end.error(f"must be at least port {first}, not {last}")
    return PortMatch(protocol, first, last if last > first else None)


def _protocol(field: Field) -> int:
    if field.absent:
        return PROTOCOLS["TCP"]
    if isinstance(field.value, int):
        return field.integer(0, 255)
    number = PROTOCOLS.get(field.string())
    if number is None:
        raise field.error(
            f"must be one of {', '.join(PROTOCOLS)} or a number from 0 to 255, not {field.value[:60]!r}"
        )
    return number
