"""The chart's objects on a real API server, by dry run: every field is taken, none is dropped.

Left out are kinds that this server does not know: PodMonitor, PrometheusRule and cert-manager's, which belong to
others, and ValidatingAdmissionPolicy, which is newer than the server and is evaluated by scripts/api-judge instead.
"""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.control_plane import ControlPlane
from tests.api.crd_server import judged
from tests.api.test_definitions import served  # noqa: F401
from tests.api.test_source import namespace
from tests.helm.chart import Objects, rendered, values_file

UNKNOWN = ("monitoring.coreos.com/", "cert-manager.io/", "admissionregistration.k8s.io/")
NEWER = {"spec.internalTrafficPolicy"}
"""Fields that are newer than the server (1.21); one that knows them takes the overlay of the same text."""

SETS = {
    "default": [], "everything": [values_file("everything")], "detach": ["--set=detach=true,openshift.enabled=true"]
}  # fmt: skip


def dropped(sent: Any, taken: Any, path: str = "") -> Iterator[str]:
    """Fields that the server did not keep, or keeps with another value."""
    if isinstance(sent, dict) and isinstance(taken, dict):
        for name, value in sent.items():
            yield from dropped(value, taken.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(sent, list) and isinstance(taken, list) and len(sent) == len(taken):
        for number, (one, other) in enumerate(zip(sent, taken, strict=True)):
            yield from dropped(one, other, f"{path}[{number}]")
    elif sent != taken and sent not in ({}, []):
        yield path


def known(objects: Objects) -> list[dict[str, Any]]:
    return [obj for obj in objects.values() if not obj["apiVersion"].startswith(UNKNOWN)]


@pytest.mark.parametrize("words", SETS.values(), ids=SETS)
def test_every_object_is_accepted_whole(plane: ControlPlane, served: ControlPlane, words: list[str]) -> None:  # noqa: F811
    plane.apply(namespace("chart"), namespace("monitoring"))
    objects = known(rendered(*words, namespace="chart"))
    assert len(objects) >= 9
    for obj in objects:
        if obj["kind"] == "CustomResourceDefinition":
            continue  # served already, from the same files; a dry run of what is there is a conflict
        try:
            taken = plane.request("POST", f"{plane.path_of(obj, named=False)}?dryRun=All", obj)
        except urllib.error.HTTPError as exc:
            pytest.fail(f"{obj['kind']} {obj['metadata']['name']}: {exc.read().decode()[:500]}")
        assert set(dropped(obj, taken)) <= NEWER, json.dumps(taken)


def refusals(policy: dict[str, Any], user: str) -> list[str]:
    """Of a relabelled node, by whom."""
    node: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {}}
    relabelled = {**node, "metadata": {"name": "n1", "labels": {"a": "b"}}}
    (answer,) = judged(
        {
            "policy": policy, "user": user, "extra": {"authentication.kubernetes.io/node-name": ["n1"]},
            "operation": "UPDATE", "resource": "nodes", "object": relabelled, "oldObject": node,
        }
    )  # fmt: skip
    return list(answer["denied"])


def test_the_startup_taints_policy_confines_the_agent_of_the_releases_namespace() -> None:
    policy = rendered("--set=startupTaint.enabled=true", namespace="walls")[
        ("ValidatingAdmissionPolicy", "dagwall-agent-node")
    ]
    assert "metadata" in refusals(policy, "system:serviceaccount:walls:dagwall-agent")[0]
    assert refusals(policy, "system:serviceaccount:dagwall-system:dagwall-agent") == []
