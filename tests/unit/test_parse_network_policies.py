"""NetworkPolicy: the API server's defaults, what empty and absent mean, and what it would refuse."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from agent.errors import InvalidObject
from agent.model.network_policy import LivePodPeer, NetworkPolicy
from agent.model.policy import CidrPeer, PolicyRef, PortMatch
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.parse.objects import parse_object

ALL = LabelSelector()


def parsed(spec: dict[str, Any] | None, **metadata: Any) -> NetworkPolicy:
    metadata = {"name": "p", "namespace": "etl", **metadata}
    obj = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    item = parse_object(obj)
    assert isinstance(item, NetworkPolicy)
    return item


def peers_of(*peers: dict[str, Any]) -> tuple[Any, ...] | None:
    (rule,) = parsed({"ingress": [{"from": list(peers)}]}).ingress or ()
    return rule.peers


def ports_of(*ports: dict[str, Any] | None) -> tuple[PortMatch, ...] | None:
    (rule,) = parsed({"ingress": [{"ports": list(ports)}]}).ingress or ()
    return rule.ports


@pytest.mark.parametrize(
    ("spec", "egress", "ingress"),
    [
        ({}, None, 0),
        (None, None, 0),
        ({"ingress": [], "egress": []}, None, 0),
        ({"egress": [{}]}, 1, 0),
        ({"policyTypes": [], "egress": [{}]}, 1, 0),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, None, 0),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, 0, None),
        ({"policyTypes": ["Egress", "Ingress"], "ingress": [{}, {}]}, 0, 2),
    ],
)
def test_policy_types(spec: dict[str, Any] | None, egress: int | None, ingress: int | None) -> None:
    policy = parsed(spec)
    assert tuple(None if rules is None else len(rules) for rules in (policy.egress, policy.ingress)) == (
        egress,
        ingress,
    )


@pytest.mark.parametrize("rule", [{}, None, {"from": [], "ports": []}, {"from": None, "ports": None}])
def test_empty_and_absent_mean_everything(rule: dict[str, Any] | None) -> None:
    (found,) = parsed({"ingress": [rule]}).ingress or ()
    assert (found.name, found.peers, found.ports) == ("ingress[0]", None, None)


def test_names_and_unknown_fields() -> None:
    policy = parsed({"podSelector": {"matchLabels": {"a": "b"}, "new": 1}, "ingress": [{"new": 1}], "new": 1})
    assert policy.ref == PolicyRef("etl", "NetworkPolicy", "p")
    assert policy.pod_selector == LabelSelector((Requirement("a", Operator.IN, ("b",)),))
    assert parsed({}, namespace=None).ref.namespace == "default"


def test_peers() -> None:
    web = LabelSelector((Requirement("app", Operator.EXISTS),))
    app = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    assert peers_of({"podSelector": {}}) == (LivePodPeer("etl", None, ALL),)
    assert peers_of({"namespaceSelector": {}}) == (LivePodPeer(None, ALL, ALL),)
    assert peers_of({"namespaceSelector": app, "podSelector": app}) == (LivePodPeer(None, web, web),)
    block = {"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"]}
    assert peers_of({"ipBlock": block}) == (CidrPeer(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),)),)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("010.0.0.0/8", "10.0.0.0/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_networks_are_read_as_go_reads_them(text: str, network: str) -> None:
    assert peers_of({"ipBlock": {"cidr": text}}) == (CidrPeer(ip_network(network)),)


def test_ports() -> None:
    assert ports_of({}) == (PortMatch(6),)
    assert ports_of(None) == (PortMatch(6),)
    assert ports_of({"protocol": "SCTP"}) == (PortMatch(132),)
    assert ports_of({"port": 80}, {"port": 80, "protocol": "UDP"}) == (PortMatch(6, 80), PortMatch(17, 80))
    assert ports_of({"port": 80, "endPort": 90}) == (PortMatch(6, 80, 90),)
    assert ports_of({"port": "web", "protocol": "UDP"}) == (PortMatch(17, name="web"),)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"policyTypes": ["Both"]}, "spec.policyTypes[0]"),
        ({"ingress": [{"from": [{}]}]}, "spec.ingress[0].from[0]"),
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]},
            "spec.ingress[0].from[0]",
        ),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}]}, "spec.ingress[0].from[0].ipBlock.cidr"),
        (
            {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]},
            "spec.egress[0].to[0].ipBlock.except[0]",
        ),
        ({"egress": [{"ports": [{"protocol": "ICMP"}]}]}, "spec.egress[0].ports[0].protocol"),
        ({"egress": [{"ports": [{"endPort": 80}]}]}, "spec.egress[0].ports[0].endPort"),
        ({"egress": [{"ports": [{"port": "web", "endPort": 80}]}]}, "spec.egress[0].ports[0].endPort"),
        ({"egress": [{"ports": [{"port": 90, "endPort": 80}]}]}, "spec.egress[0].ports[0].endPort"),
        ({"egress": [{"ports": [{"port": 70000}]}]}, "spec.egress[0].ports[0].port"),
        ({"policyTypes": ["Ingress"], "egress": [{"ports": [{"port": 0}]}]}, "spec.egress[0].ports[0].port"),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            "spec.podSelector.matchExpressions",
        ),
    ],
)
def test_what_the_api_server_refuses(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidObject) as caught:
        parsed(spec)
    assert caught.value.obj == "NetworkPolicy/etl/p"
    assert caught.value.field.startswith(field)
