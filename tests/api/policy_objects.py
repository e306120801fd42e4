"""Specs that server and agent must agree on. What the schema cannot say is in ONLY_THE_AGENT."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]


def typed(kind: str, spec: Spec, name: str = "p", namespace: str = "crds") -> dict[str, Any]:
    where = {"namespace": namespace} if kind == "TaskNetworkPolicy" else {}
    return {
        "apiVersion": "dagwall.io/v1alpha1", "kind": kind, "metadata": {"name": name, **where}, "spec": spec,
    }  # fmt: skip


def ports(*entries: Spec) -> Spec:
    return {"egress": [{"ports": list(entries)}]}


def to(*peers: Spec) -> Spec:
    return {"egress": [{"to": list(peers)}]}


def selecting(**expression: Any) -> Spec:
    return {"subject": {"podSelector": {"matchExpressions": [expression]}}}


DNS = {"entity": "dns"}


def http(*entries: Spec) -> Spec:
    return {"egress": [{"ports": [{"port": 80}], "http": list(entries)}]}


SERVICE = {"service": {"namespace": "db", "name": "pg"}}
GOOD: tuple[Spec, ...] = (
    {},
    {"subject": {"serviceAccounts": ["etl"], "dagIds": ["a_*"], "kinds": ["kubernetes-executor"]}, "egress": []},
    {"subject": {"dagIds": ["größe-1.x", "*", "日本"], "taskIds": ["load_*"]}},
    {"subject": {"podSelector": {"matchLabels": {"a": "b", "c.d/e": "f-1"}}}},
    selecting(key="a", operator="In", values=["x", "y"]),
    selecting(key="a", operator="Exists"),
    selecting(key="a", operator="DoesNotExist", values=[]),
    {"egress": [{"name": "x", "to": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}], "ports": [{"port": 443}]}]},
    to({"cidr": "2001:db8::/32"}, {"cidr": "0.0.0.0/0"}, {"cidr": "198.51.100.9/32", "except": []}),
    to(SERVICE, DNS),
    to({"tasks": {}}, {"tasks": {"namespace": "b", "dagIds": ["x"], "taskIds": ["y*"]}}),
    to({"pods": {"namespaceSelector": {}}}, {"pods": {"podSelector": {"matchLabels": {"a": "b"}}}}),
    {"ingress": [{"from": [{"pods": {"podSelector": {"matchLabels": {"a": "b"}}}}], "ports": [{"port": "http"}]}]},
    {"ingress": [{}], "egress": [{}]},
    ports({"port": 80, "endPort": 90, "protocol": "UDP"}, {"port": 80, "endPort": 80}, {"protocol": 47}),
    ports({"port": 1}, {"port": 65535}, {"protocol": "ICMPv6"}, {"protocol": "GRE"}, {"protocol": 0}),
    ports({"port": 1, "protocol": 6}, {"port": 1, "protocol": 17}, {"port": "a-b", "protocol": 132}),
    ports({"port": "a"}, {"port": "1a"}, {"port": "abcdefghijklmno"}),
    {"deny": [{"to": [{"entity": "metadata"}], "reason": "no"}], "posture": "audit", "rawSockets": True},
    {"deny": [{"from": [DNS]}, {"direction": "egress"}, {"direction": "ingress", "ports": [{"port": 22}]}]},
    {"deny": [{"to": [DNS], "direction": "egress"}, {"from": [DNS], "direction": "ingress"}]},
    {"attestation": "bound", "posture": "enforce"},
    http({"methods": ["GET", "CONNECT"], "host": "*.example.org:8443"}, {"host": "10.0.0.7", "path": "/v1/*/runs"}),
    http({"path": "/"}, {"methods": ["PATCH"]}),
)
GOOD_CLUSTER: tuple[Spec, ...] = (
    {"subject": {"namespaceSelector": {"matchLabels": {"a": "b"}}}},
    to(SERVICE, {"pods": {"podSelector": {}}}),
)
BAD: tuple[Spec, ...] = (
    http(),
    http({}),
    http({"methods": ["get"]}),
    http({"methods": []}),
    http({"host": "a b"}),
    http({"host": "a.b:0"}),
    http({"path": "v1"}),
    http({"path": "/a*b*c"}),
    http({"path": "/a?b"}),
    http(*[{"path": f"/{i}"} for i in range(33)]),
    {"posture": "maybe"},
    {"attestation": "sworn"},
    {"rawSockets": "yes"},
    {"subject": {"kinds": ["robot"]}},
    {"subject": {"kinds": []}},
    {"subject": {"serviceAccounts": ["Not A Name"]}},
    {"subject": {"serviceAccounts": []}},
    {"subject": {"dagIds": []}},
    {"subject": {"dagIds": [""]}},
    {"subject": {"dagIds": ["with blank"]}},
    {"subject": {"taskIds": ["a/b"]}},
    {"subject": {"dagIds": ["x" * 251]}},
    {"subject": {"podSelector": {"matchLabels": {"a": "no blank"}}}},
    selecting(key="a", operator="In"),
    selecting(key="a", operator="NotIn", values=[]),
    selecting(key="a", operator="Exists", values=["x"]),
    selecting(key="a", operator="Gt", values=["1"]),
    selecting(operator="Exists"),
    to(),
    to({}),
    to({"entity": "moon"}),
    to({**DNS, **SERVICE}),
    to({"cidr": "10.0.0.0/8", **DNS}),
    to({"cidr": "10.0.0.1"}),
    to({"cidr": "example.com"}),
    to({"cidr": "10.0.0.0/33"}),
    to({"cidr": ""}),
    to({"cidr": "10.0.0.0/8", "except": ["nonsense"]}),
    to({"except": ["10.0.0.0/8"]}),
    to({**DNS, "except": ["10.0.0.0/8"]}),
    to({"service": {"namespace": "db"}}),
    to({"service": {"namespace": "db", "name": "No Name"}}),
    to({"pods": {}}),
    to({"tasks": {"dagIds": []}}),
    {"egress": {}},
    {"egress": [{"name": "No Name"}]},
    {"egress": [{"ports": []}]},
    ports({}),
    ports({"port": 0}),
    ports({"port": 65536}),
    ports({"port": 80, "endPort": 70000}),
    ports({"port": "443"}),
    ports({"port": "HTTP"}),
    ports({"port": "a--b"}),
    ports({"port": "abcdefghijklmnop"}),
    ports({"port": 80, "protocol": "ICMP"}),
    ports({"port": 80, "protocol": 1}),
    ports({"port": "a", "protocol": "GRE"}),
    ports({"protocol": "tcp"}),
    ports({"protocol": 256}),
    ports({"protocol": -1}),
    {"deny": [{"direction": "sideways"}]},
    {"deny": [{}]},
    {"deny": [{"ports": [{"port": 22}]}]},
    {"deny": [{"to": [DNS], "from": [DNS]}]},
    {"deny": [{"to": [DNS], "direction": "ingress"}]},
    {"deny": [{"from": [DNS], "direction": "egress"}]},
    {"deny": [{"to": [], "direction": "egress"}]},
)
BAD_BY_CEL: tuple[Spec, ...] = (
    ports({"endPort": 80}),
    ports({"protocol": "UDP", "endPort": 80}),
    ports({"port": "http", "endPort": 80}),
    ports({"port": 80, "endPort": 79}),
)
BAD_CLUSTER: tuple[Spec, ...] = (to({"service": {"name": "pg"}}),)
BINDING: Spec = {"namespace": "airflow", "serviceAccounts": ["etl"], "dagIds": ["etl_*"]}
GOOD_BINDINGS: tuple[Spec, ...] = (
    BINDING,
    BINDING | {"taskIds": ["load"], "exclusive": True, "posture": "enforce"},
)
BAD_BINDINGS: tuple[Spec, ...] = (
    {},
    {key: value for key, value in BINDING.items() if key != "dagIds"},
    BINDING | {"serviceAccounts": []},
    BINDING | {"dagIds": ["a b"]},
    BINDING | {"namespace": "Not A Name"},
    BINDING | {"posture": "maybe"},
    BINDING | {"exclusive": "yes"},
)
UNKNOWN_FIELDS: tuple[Spec, ...] = (
    {"egres": []},
    {"subject": {"dagId": ["x"]}},
    {"egress": [{"too": [DNS]}]},
    to({**SERVICE, "port": 80}),
    to({"service": {"namespace": "db", "name": "pg", "port": 80}}),
    ports({"port": 80, "endport": 90}),
    {"deny": [{"to": [DNS], "why": "x"}]},
    {"subject": {"podSelector": {"matchLabel": {"a": "b"}}}},
    selecting(key="a", operator="Exists", value="x"),
    {"egress": [{"tls": {"required": True, "serverName": ["x"]}}]},
)
"""The server keeps them, so that the agent refuses the object instead of reading less than was written (P17)."""

CASES = [
    *(("TaskNetworkPolicy", spec, True, False) for spec in GOOD),
    *(("TaskNetworkPolicy", spec, False, False) for spec in BAD),
    *(("TaskNetworkPolicy", spec, False, True) for spec in BAD_BY_CEL),
    *(("ClusterTaskNetworkPolicy", spec, True, False) for spec in GOOD_CLUSTER),
    *(("ClusterTaskNetworkPolicy", spec, False, False) for spec in BAD_CLUSTER),
    *(("TaskIdentityBinding", spec, True, False) for spec in GOOD_BINDINGS),
    *(("TaskIdentityBinding", spec, False, False) for spec in BAD_BINDINGS),
]
"""(kind, spec, is it valid, does only CEL say so)"""
