"""`helm install`, `upgrade` and `uninstall` as people type them, against a real API server of their own."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.control_plane import ControlPlane
from tests.helm.chart import CHART, helm

RELEASE, NAMESPACE = "dagwall", "walls"
DAEMONSETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tasknetworkpolicies.dagwall.io"


@pytest.fixture(scope="module")
def own_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("helm")) as running:
        yield running


def typed(plane: ControlPlane, command: str, *words: str) -> str:
    chart = [] if command == "uninstall" else [str(CHART)]
    done = helm(command, RELEASE, *chart, f"--namespace={NAMESPACE}", f"--kubeconfig={plane.kubeconfig()}", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(plane: ControlPlane) -> list[str]:
    return [obj["metadata"]["name"] for obj in plane.request("GET", DAEMONSETS)["items"]]


def arguments(plane: ControlPlane) -> list[str]:
    found: dict[str, Any] = plane.request("GET", f"{DAEMONSETS}/dagwall-agent")
    return list(found["spec"]["template"]["spec"]["containers"][0]["args"])


def test_install_change_and_take_off(own_plane: ControlPlane, tmp_path: Path) -> None:
    said = typed(own_plane, "install", "--create-namespace", "--set=policy.posture=audit")
    assert f"kubectl -n {NAMESPACE} exec daemonset/dagwall-agent" in said
    assert names(own_plane) == ["dagwall-agent"]
    assert "--posture=audit" in arguments(own_plane)
    assert own_plane.request("GET", DEFINITION)["spec"]["names"]["kind"] == "TaskNetworkPolicy"

    typed(own_plane, "upgrade", "--reset-then-reuse-values", "--set=policy.posture=enforce,flowLog.enabled=true")
    assert "--posture=audit" not in arguments(own_plane)
    assert "--flow-log=/var/log/dagwall/flows.log" in arguments(own_plane)

    said = typed(own_plane, "upgrade", "--reset-then-reuse-values", "--set=detach=true")
    assert "rollout status daemonset/dagwall-detach" in said
    assert names(own_plane) == ["dagwall-detach"]

    typed(own_plane, "uninstall")
    assert names(own_plane) == []
    with pytest.raises(urllib.error.HTTPError, match="404"):
        own_plane.request("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/dagwall-agent")
    assert own_plane.request("GET", DEFINITION), "definitions, and with them the policies, stay"
