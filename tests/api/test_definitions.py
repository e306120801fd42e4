"""The CRDs on a real API server: accepted, and of one mind with the agent's validator as far as a schema can be."""

from __future__ import annotations

import time
import urllib.error
from typing import Any

import pytest

from agent.errors import InvalidObject
from agent.parse.definitions import definitions
from agent.parse.objects import parse_object
from tests.api.control_plane import ControlPlane
from tests.api.test_source import in_namespace


def policy(spec: dict[str, Any], name: str = "p") -> dict[str, Any]:
    return {
        "apiVersion": "dagwall.io/v1alpha1",
        "kind": "TaskNetworkPolicy",
        "metadata": {"name": name, "namespace": "crds"},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def served(plane: ControlPlane) -> ControlPlane:
    plane.apply(*definitions())
    in_namespace(plane, "crds")
    deadline = time.monotonic() + 30
    while True:
        try:
            plane.request("GET", "/apis/dagwall.io/v1alpha1/namespaces/crds/tasknetworkpolicies")
            break
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    return plane


GOOD: list[dict[str, Any]] = [
    {},
    {"subject": {"serviceAccounts": ["etl"], "dagIds": ["a_*"], "kinds": ["kubernetes-executor"]}, "egress": []},
    {"egress": [{"name": "x", "to": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}], "ports": [{"port": 443}]}]},
    {"egress": [{"to": [{"service": {"namespace": "db", "name": "pg"}}, {"entity": "dns"}]}]},
    {"ingress": [{"from": [{"pods": {"podSelector": {"matchLabels": {"a": "b"}}}}], "ports": [{"port": "http"}]}]},
    {"egress": [{"ports": [{"port": 80, "endPort": 90, "protocol": "UDP"}, {"protocol": 47}]}]},
    {"deny": [{"to": [{"entity": "metadata"}], "reason": "no"}], "posture": "audit", "rawSockets": True},
]
BAD: list[dict[str, Any]] = [
    {"posture": "maybe"},
    {"subject": {"kinds": ["robot"]}},
    {"subject": {"serviceAccounts": ["Not A Name"]}},
    {"subject": {"dagIds": []}},
    {"egress": [{"to": []}]},
    {"egress": [{"ports": []}]},
    {"egress": [{"to": [{"entity": "moon"}]}]},
    {"egress": [{"ports": [{"port": 80, "endPort": 70000}]}]},
    {"egress": {}},
    {"deny": [{"direction": "sideways"}]},
    {"rawSockets": "yes"},
]


@pytest.mark.parametrize("spec", GOOD, ids=str)
def test_both_accept(served: ControlPlane, spec: dict[str, Any]) -> None:
    assert served.refusal(policy(spec)) == ""
    parse_object(policy(spec))


@pytest.mark.parametrize("spec", BAD, ids=str)
def test_both_refuse_what_a_schema_can_refuse(served: ControlPlane, spec: dict[str, Any]) -> None:
    assert served.refusal(policy(spec))
    with pytest.raises(InvalidObject):
        parse_object(policy(spec))
