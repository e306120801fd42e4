"""NetworkPolicy, networking.k8s.io/v1, into model.network_policy, with the API server's defaults and its checks.

Unknown fields are ignored, as the API server has already decided about them; what it would refuse is refused here
too, since manifests may come from files. Source: k8s.io/kubernetes pkg/apis/networking/{v1/defaults.go,validation}.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Any

from agent.model.network_policy import LivePodPeer, NetworkPolicy, NetworkPolicyRule
from agent.model.policy import CidrPeer, Network, PolicyRef, PortMatch
from agent.model.selector import LabelSelector
from agent.model.verdict import Direction
from agent.parse.addresses import parse_protocol
from agent.parse.bounds import refuse_excess
from agent.parse.claims import parse_name
from agent.parse.fields import Field
from agent.parse.peers import MAPPED, parse_port
from agent.parse.selectors import parse_selector

NETWORK_POLICY = ("networking.k8s.io/v1", "NetworkPolicy")

_TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}
_KEYS = {Direction.INGRESS: ("ingress", "from"), Direction.EGRESS: ("egress", "to")}
_LEADING_ZEROS = re.compile(r"(?:^|(?<=\.))0+(?=[0-9])")


def parse_network_policy(root: Field) -> NetworkPolicy:
    """One object. Raises InvalidObject."""
    metadata, spec = root.child("metadata"), root.child("spec")
    namespace = parse_name(metadata.child("namespace"), "default")
    types = _policy_types(spec)
    _refuse_excess(spec)
    rules = {each: _rules(spec, each, namespace) for each in Direction}  # checked, even where they do not count
    return NetworkPolicy(
        ref=PolicyRef(namespace, NETWORK_POLICY[1], parse_name(metadata.child("name"))),
        pod_selector=_selector(spec.child("podSelector")),
        egress=rules[Direction.EGRESS] if Direction.EGRESS in types else None,
        ingress=rules[Direction.INGRESS] if Direction.INGRESS in types else None,
    )


def _policy_types(spec: Field) -> set[Direction]:
    """None given: Ingress always, Egress where there is an egress rule."""
    types = set()
    for item in spec.child("policyTypes").optional_items():
        if item.string() not in _TYPES:
            raise item.error(f"must be Ingress or Egress, not {item.string()[:60]!r}")
        types.add(_TYPES[item.string()])
    return types or {Direction.INGRESS, *([Direction.EGRESS] if spec.child("egress").value else [])}


def _rules(spec: Field, direction: Direction, namespace: str) -> tuple[NetworkPolicyRule, ...]:
    """An entry that is null is an empty one, which allows everything."""
    key, peers = _KEYS[direction]
    return tuple(
        NetworkPolicyRule(
            name=f"{key}[{i}]",
            direction=direction,
            peers=tuple(dict.fromkeys(_peer(each, namespace) for each in item.child(peers).optional_items())) or None,
            ports=tuple(dict.fromkeys(_port(each) for each in item.child("ports").optional_items())) or None,
        )
        for i, item in enumerate(spec.child(key).optional_items())
    )


def _refuse_excess(spec: Field) -> None:
    """Before anything is made of it."""
    items = [(item, side) for key, side in _KEYS.values() for item in spec.child(key).optional_items()]
    peers = [peer for item, side in items for peer in item.child(side).optional_items()]
    holes = sum(1 for peer in peers for _ in peer.child("ipBlock").child("except").optional_items())
    ports = sum(1 for item, _ in items for _ in item.child("ports").optional_items())
    refuse_excess(spec, len(items), len(peers) + holes, ports)


def _peer(field: Field, namespace: str) -> CidrPeer | LivePodPeer:
    block, pods, namespaces = (field.child(key) for key in ("ipBlock", "podSelector", "namespaceSelector"))
    if not block.absent:
        if not (pods.absent and namespaces.absent):
            raise field.error("ipBlock stands alone, without podSelector and namespaceSelector")
        return _block(block)
    if pods.absent and namespaces.absent:
        raise field.error("must have ipBlock, podSelector or namespaceSelector")
    return LivePodPeer(
        namespace=namespace if namespaces.absent else None,
        namespace_selector=None if namespaces.absent else _selector(namespaces),
        pod_selector=_selector(pods),
    )


def _block(field: Field) -> CidrPeer:
    network = _network(field.child("cidr"))
    excluded = []
    for item in field.child("except").optional_items():
        hole = _network(item)
        if hole.version != network.version or hole == network or not hole.subnet_of(network):  # type: ignore[arg-type]
            raise item.error(f"{hole} must lie inside {network} and be smaller")
        excluded.append(hole)
    return CidrPeer(network, tuple(sorted(set(excluded), key=lambda n: (int(n.network_address), n.prefixlen))))


def _network(field: Field) -> Network:
    """Read as Go reads it: host bits are cut off, leading zeros mean nothing, IPv4 in IPv6 clothes is IPv4."""
    text = field.nonempty()
    address, slash, length = text.partition("/")
    try:
        if not slash or not length.isdecimal():
            raise ValueError(text)
        network = ip_network(f"{_LEADING_ZEROS.sub('', address)}/{length}", strict=False)
    except ValueError as exc:
        raise field.error(f"{text[:60]!r} is no CIDR; allowed: such as 10.0.0.0/8 or 2001:db8::/32") from exc
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        return ip_network((ip_address(int(network.network_address) & 0xFFFFFFFF), network.prefixlen - 96))
    return network


def _port(field: Field) -> PortMatch:
    """TCP where no protocol is given; all of its ports where no port is."""
    known = {"protocol": field.child("protocol").value or "TCP"}
    parse_protocol(Field(field.obj, field.child("protocol").path, known["protocol"]))
    known |= {key: field.child(key).value for key in ("port", "endPort") if not field.child(key).absent}
    return parse_port(Field(field.obj, field.path, known))


def _selector(field: Field) -> LabelSelector:
    """A metav1.LabelSelector; absent and `{}` select everything."""
    known: dict[str, Any] = {}
    labels, expressions = field.child("matchLabels"), field.child("matchExpressions")
    if not labels.absent:
        known["matchLabels"] = {key: "" if value is None else value for key, value in labels.mapping().items()}
    if not expressions.absent:
        entries = [{k: v for k, v in each.mapping().items() if k in _EXPRESSION} for each in expressions.items()]
        known["matchExpressions"] = entries
    return parse_selector(Field(field.obj, field.path, known))


_EXPRESSION = ("key", "operator", "values")
