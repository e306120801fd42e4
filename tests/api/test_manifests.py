"""daemonset.yaml and deploy/ on a real API server, and the agent's rights: what it may, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.model.cluster import Cluster
from agent.sources.kube_api import KubeApi
from agent.sources.kubernetes import KubernetesSource
from agent.sources.store import Store
from tests.api.control_plane import ROOT, ControlPlane
from tests.api.test_definitions import served  # noqa: F401
from tests.api.test_source import Reading, namespace


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def test_every_object_is_accepted_by_the_server(plane: ControlPlane, served: ControlPlane) -> None:  # noqa: F811
    plane.apply(namespace("dagwall-system"))
    for obj in (*documents(ROOT / "daemonset.yaml"), *documents(ROOT / "deploy/detach.yaml")):
        assert plane.refusal(obj) == ""


def test_one_file_is_all_of_the_base() -> None:
    base = [obj for path in sorted((ROOT / "deploy" / "base").rglob("*.yaml")) for obj in documents(path)]
    names = sorted((obj["kind"], obj["metadata"]["name"]) for obj in base if obj["kind"] != "Kustomization")
    assert names == sorted((obj["kind"], obj["metadata"]["name"]) for obj in documents(ROOT / "daemonset.yaml"))


@pytest.fixture
def own_kubeconfig(plane: ControlPlane, served: ControlPlane) -> Path:  # noqa: F811
    """The agent's own: its service account's token, by the TokenRequest API."""
    plane.apply(*(obj for obj in documents(ROOT / "daemonset.yaml") if obj["kind"] != "DaemonSet"))
    return plane.token_kubeconfig("dagwall-system", "dagwall-agent")


def test_the_agents_own_rights_are_enough(own_kubeconfig: Path) -> None:
    source = KubernetesSource(KubeApi.connect(str(own_kubeconfig)), Store(Cluster()), "n1")
    try:
        reading = Reading(source)
        reading.until(lambda c: c.complete)
        assert all(informer.reflector.listed for informer in source.informers)
    finally:
        source.close()


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/secrets", "/api/v1/configmaps", "/api/v1/namespaces/default/pods/x",
        "/api/v1/namespaces/default/serviceaccounts/default", "/apis/apps/v1/deployments",
    ],
)  # fmt: skip
def test_and_there_are_no_others(own_kubeconfig: Path, path: str) -> None:
    api = KubeApi.connect(str(own_kubeconfig))
    with pytest.raises(Exception, match="403"):
        api.get(path)
