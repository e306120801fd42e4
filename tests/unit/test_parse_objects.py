"""Namespaces, services, slices, nodes, service accounts, and what is no kind of ours."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.errors import InvalidObject
from agent.model.cluster import (
    ContainerPort,
    EndpointSlice,
    Namespace,
    Node,
    Service,
    ServiceAccount,
    ServicePort,
)
from agent.model.policy import DefaultPosture, Entity
from agent.parse.objects import ObjectName, object_name, parse_object


def namespace(labels: dict[str, Any] | None = None, annotations: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"name": "etl", "labels": labels or {}, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def parsed_namespace(*args: Any, **kwargs: Any) -> Namespace:
    item = parse_object(namespace(*args), **kwargs)
    assert isinstance(item, Namespace)
    return item


def test_namespace_is_managed_by_label_or_by_name() -> None:
    assert not parsed_namespace().managed
    assert parsed_namespace({"dagwall.io/managed": "true"}).managed
    assert not parsed_namespace({"dagwall.io/managed": "false"}).managed
    assert parsed_namespace(managed_namespaces=frozenset({"etl"})).managed


def test_namespace_has_the_label_of_its_name() -> None:
    assert dict(parsed_namespace().labels) == {"kubernetes.io/metadata.name": "etl"}


def test_posture_and_baseline() -> None:
    plain = parsed_namespace()
    assert (plain.default_posture, plain.baseline) == (None, None)
    told = parsed_namespace({}, {"dagwall.io/default-posture": "deny", "dagwall.io/baseline": "dns, airflow,dns"})
    assert told.default_posture is DefaultPosture.DENY
    assert told.baseline == (Entity.DNS, Entity.AIRFLOW)
    assert parsed_namespace({}, {"dagwall.io/baseline": ""}).baseline == ()


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (
            namespace({"dagwall.io/managed": "yes"}),
            r"labels\.dagwall.io/managed: must be 'true' or 'false', not 'yes'",
        ),
        (namespace({}, {"dagwall.io/default-posture": "open"}), r"must be one of observe, deny, not 'open'"),
        (namespace({}, {"dagwall.io/baseline": "dns,internet"}), r"must be entities .*not 'internet'"),
        (
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}},
            r"Secret/default/s: v1/Secret is no kind",
        ),
        ({"apiVersion": "v1", "kind": "Secret"}, r"allowed: v1/Pod, v1/Namespace, v1/Service, .*EndpointSlice"),
        ({"kind": "Pod"}, r"Pod/default: apiVersion: must be a string"),
        ({}, r"apiVersion"),
        ([], r"must be an object with apiVersion and kind"),
        (None, r"must be an object with apiVersion and kind"),
        ("x", r"must be an object with apiVersion and kind"),
    ],
)
def test_refused(obj: object, message: str) -> None:
    with pytest.raises(InvalidObject) as caught:
        parse_object(obj)
    assert re.search(message, str(caught.value))


def test_object_name_never_raises() -> None:
    assert object_name({"kind": 5, "metadata": []}) == ObjectName("", "default", "")
    assert str(object_name({"kind": "Node", "metadata": {"name": "n", "namespace": "x"}})) == "Node/n"


def service(spec: dict[str, Any], status: dict[str, Any] | None = None) -> Service:
    obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "db"}, "spec": spec}
    item = parse_object(obj | ({"status": status} if status else {}))
    assert isinstance(item, Service)
    return item


def test_service_has_all_its_addresses_once() -> None:
    item = service(
        {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": ["192.0.2.1"]},
        {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "x.example"}]}},
    )
    assert item.addresses == tuple(map(ip_address, ("10.96.0.1", "fd00::1")))
    assert item.external == tuple(map(ip_address, ("192.0.2.1", "192.0.2.2")))


def test_headless_and_external_name_have_none() -> None:
    assert service({"clusterIP": "None", "clusterIPs": ["None"]}).addresses == ()
    assert service({"type": "ExternalName", "externalName": "x.example"}).addresses == ()


@pytest.mark.parametrize(
    ("target", "expected"), [(None, None), (0, None), (8080, 8080), ("8080", 8080), ("http", "http")]
)
def test_target_ports(target: object, expected: object) -> None:
    item = service({"ports": [{"name": "web", "port": 80, "protocol": "UDP", "targetPort": target}]})
    assert item.ports == (ServicePort(name="web", protocol=17, port=80, target=expected),)  # type: ignore[arg-type]


@pytest.mark.parametrize("port", [{"port": 0}, {"port": 65536}, {"port": "80"}, {"port": 1, "targetPort": "9" * 20}])
def test_bad_ports(port: dict[str, object]) -> None:
    with pytest.raises(InvalidObject, match=r"Service/db/s: spec\.ports\[0\]\."):
        service({"ports": [port]})


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_slices_of_both_versions(version: str) -> None:
    item = parse_object(
        {
            "apiVersion": f"discovery.k8s.io/{version}",
            "kind": "EndpointSlice",
            "metadata": {"name": "s-1", "namespace": "db", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": False}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": False, "serving": True, "terminating": True}},
                {"addresses": ["10.0.0.4"]},
            ],
            "ports": [{"name": "pg", "port": 5432, "protocol": "TCP"}, {"name": "any", "protocol": "TCP"}],
        }
    )
    assert item == EndpointSlice(
        namespace="db",
        name="s-1",
        service="s",
        addresses=tuple(map(ip_address, ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"))),
        ports=(ContainerPort(name="pg", protocol=6, port=5432),),
        waiting=frozenset({ip_address("10.0.0.2")}),
    )


def test_slices_of_names_have_no_addresses() -> None:
    item = parse_object(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "s-1", "namespace": "db"},
            "addressType": "FQDN",
            "endpoints": [{"addresses": ["x.example"]}],
            "ports": None,
        }
    )
    assert isinstance(item, EndpointSlice)
    assert item.addresses == ()


def test_node_and_service_account() -> None:
    node = parse_object(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n1"},
            "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd01::/64"]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "::ffff:192.0.2.9"},
                    {"type": "Hostname", "address": "n1"},
                ]
            },
        }
    )
    assert node == Node(
        name="n1",
        addresses=(ip_address("192.0.2.9"),),
        pod_ranges=(ip_network("10.244.0.0/24"), ip_network("fd01::/64")),
    )
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "etl", "namespace": "ns"}}
    assert parse_object(account) == ServiceAccount("ns", "etl")
