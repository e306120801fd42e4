"""Whatever an object looks like, the answer is a model value or an InvalidObject of bounded length."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import InvalidObject
from agent.parse.objects import object_name, parse_object
from agent.sources.store import key_of

UID = "cc7a1de5-1bf8-4567-ae3a-697995d1d600"
POD = json.loads((Path(__file__).parents[1] / "data" / "airflow" / "pods-3.3.2-kpo-spoof.json").read_text())
POD["metadata"]["uid"] = UID
POD["status"] = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
POD["spec"]["containers"][0]["ports"] = [{"name": "web", "containerPort": 80, "protocol": "TCP"}]
META = {"name": "x", "namespace": "ns", "labels": {"a": "b"}, "annotations": {"dagwall.io/baseline": "dns"}}
OBJECTS: list[dict[str, Any]] = [
    POD,
    {"apiVersion": "v1", "kind": "Namespace", "metadata": META},
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": META},
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": META,
        "spec": {
            "clusterIP": "10.0.0.1",
            "clusterIPs": ["10.0.0.1"],
            "externalIPs": ["10.0.0.2"],
            "ports": [{"name": "a", "port": 1, "targetPort": "x"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.3"}]}},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": META,
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "a", "port": 1}],
    },
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": META,
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]},
    },
    {
        "apiVersion": "dagwall.io/v1alpha1",
        "kind": "TaskNetworkPolicy",
        "metadata": {"name": "x", "namespace": "ns"},
        "spec": {"subject": {"dagIds": ["a*"]}, "egress": [{"to": [{"cidr": "10.0.0.0/8"}], "ports": [{"port": 1}]}]},
    },
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["x" * 1_000_000, "10.0.0.1", "::1%0", "\ud800", "True", "ALL", "1e400", [], {}, [[]], {"": None}]
    )
)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3), max_leaves=8
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, child in children for path in paths(child, (*at, key)))]


def judge(obj: object) -> None:
    object_name(obj)
    try:
        text = str(key_of(parse_object(obj)))
    except InvalidObject as error:
        text = str(error)
    assert len(text) < 3000


@st.composite
def mutated(draw: st.DrawFn) -> object:
    """A real object with up to three fields replaced, added or removed."""
    obj = copy.deepcopy(draw(st.sampled_from(OBJECTS)))
    for _ in range(draw(st.integers(1, 3))):
        *into, last = draw(st.sampled_from(paths(obj)[1:] or [("x",)]))
        parent: Any = obj
        for key in into:
            parent = parent[key]
        if isinstance(parent, dict) and draw(st.booleans()) and draw(st.booleans()):
            del parent[last]
        else:
            parent[last] = copy.deepcopy(draw(VALUES))
    return obj


@settings(max_examples=600, deadline=None)
@given(mutated())
def test_mutated_objects(obj: object) -> None:
    judge(obj)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_any_value(obj: object) -> None:
    judge(obj)


def test_the_seeds_are_valid() -> None:
    for obj in OBJECTS:
        parse_object(obj)


MANY = {f"{i:05x}": "" for i in range(20_000)}
LABELLED = META | {"labels": MANY, "annotations": MANY}
EXPRESSIONS = [{"key": key, "operator": "Exists"} for key in MANY]
PATHS = [{"hostPath": {"path": f"/{key}/{key}"}} for key in MANY]


@pytest.mark.parametrize(
    "obj",
    [
        *({**obj, "metadata": {**obj["metadata"], **LABELLED}} for obj in OBJECTS),
        {**POD, "spec": {**POD["spec"], "volumes": PATHS, "containers": [{"name": key} for key in MANY]}},
        {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": META,
            "spec": {"podSelector": {"matchLabels": MANY, "matchExpressions": EXPRESSIONS}},
        },
    ],
)  # fmt: skip
def test_reading_costs_by_what_is_there_and_not_by_its_square(obj: dict[str, Any]) -> None:
    """20,000 short annotations cost 14 s once, and everybody's changes waited for them (P17, S1)."""
    began = time.process_time()
    with contextlib.suppress(InvalidObject):
        parse_object(obj)
    assert time.process_time() - began < 2
