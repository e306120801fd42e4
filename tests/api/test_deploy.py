"""What deploy/ gives to people: accepted by a real server as far as it knows the kinds, and true to its comments."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.run import run
from agent.errors import ApiError
from agent.sources.kube_api import KubeApi
from tests.api.control_plane import ROOT, ControlPlane
from tests.api.test_manifests import documents
from tests.api.test_source import in_namespace

DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.parent for path in (DEPLOY / "overlays").glob("*/kustomization.yaml"))


@pytest.fixture
def worker(plane: ControlPlane) -> KubeApi:
    """Airflow's worker with deploy/worker-role.yaml."""
    in_namespace(plane, "airflow")
    account = {
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "airflow-worker", "namespace": "airflow"}
    }  # fmt: skip
    plane.apply(account, *documents(DEPLOY / "worker-role.yaml"))
    return KubeApi.connect(str(plane.token_kubeconfig("airflow", "airflow-worker")))


def pod(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"automountServiceAccountToken": False, "containers": [{"name": "base", "image": "none"}]},
    }  # fmt: skip


def test_a_worker_may_start_follow_and_remove_pods(worker: KubeApi) -> None:
    pods = "/api/v1/namespaces/airflow/pods"
    worker.send("POST", pods, pod("kpo-1"))
    assert worker.get(f"{pods}/kpo-1")["metadata"]["name"] == "kpo-1"
    assert worker.get(pods)["items"]
    assert "items" in worker.get("/api/v1/namespaces/airflow/events")
    worker.send("DELETE", f"{pods}/kpo-1", {"gracePeriodSeconds": 0})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "pods/kpo-2"), ("PUT", "pods/kpo-2"), ("POST", "pods/kpo-2/exec"), ("GET", "pods/kpo-2/exec"),
        ("POST", "pods/kpo-2/attach"), ("POST", "pods/kpo-2/binding"), ("PATCH", "pods/kpo-2/ephemeralcontainers"),
        ("GET", "secrets"), ("POST", "serviceaccounts/default/token"), ("GET", "serviceaccounts"),
    ],
)  # fmt: skip
def test_and_cannot_act_as_another_task(plane: ControlPlane, worker: KubeApi, method: str, path: str) -> None:
    plane.delete({**pod("kpo-2"), "metadata": {"name": "kpo-2", "namespace": "airflow"}})
    worker.send("POST", "/api/v1/namespaces/airflow/pods", pod("kpo-2"))
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    with pytest.raises(ApiError, match="403"):
        worker.send(method, f"/api/v1/namespaces/airflow/{path}", {}, kind=kind)


def kustomizes() -> bool:
    """kubectl 1.21 and newer have kustomize 4; Debian 12's has one that does not know `patches`."""
    if shutil.which("kubectl") is None:
        return False
    said = subprocess.run(["kubectl", "version", "--client", "-o", "json"], stdout=subprocess.PIPE, check=True)
    return "kustomizeVersion" in json.loads(said.stdout)


@pytest.mark.skipif(not kustomizes(), reason="this kubectl is too old to build the overlays")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_overlays_build_are_accepted_and_name_real_flags(plane: ControlPlane, overlay: Path) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], stdout=subprocess.PIPE, text=True, check=True)
    objects = [obj for obj in yaml.safe_load_all(done.stdout) if obj]
    plane.apply(*(obj for obj in objects if obj["kind"] == "Namespace"))
    assert [plane.refusal(obj) for obj in objects] == [""] * len(objects)
    (daemonset,) = (obj for obj in objects if obj["kind"] == "DaemonSet")
    command, *flags = daemonset["spec"]["template"]["spec"]["containers"][0]["args"]
    known = {option for parameter in run.params for option in parameter.opts}
    assert command == "run"
    assert {flag.partition("=")[0] for flag in flags} <= known


def test_the_metrics_that_are_scraped_are_the_agent_s() -> None:
    """The server does not know PodMonitor: held against the DaemonSet."""
    (monitor,) = documents(DEPLOY / "podmonitor.yaml")
    (daemonset,) = (obj for obj in documents(ROOT / "daemonset.yaml") if obj["kind"] == "DaemonSet")
    template = daemonset["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert monitor["metadata"]["namespace"] == daemonset["metadata"]["namespace"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}


@pytest.mark.parametrize("name", ["admission-policy.yaml", "startup-taint.yaml"])
def test_the_admission_policies_are_whole(name: str) -> None:
    """The server is older than the kind (1.30): fields against the documented schema, names against each other."""
    *_, policy, binding = documents(DEPLOY / name)
    assert {policy["apiVersion"], binding["apiVersion"]} == {"admissionregistration.k8s.io/v1"}
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert set(binding["spec"]["validationActions"]) <= {"Deny", "Warn", "Audit"}
    spec = policy["spec"]
    assert spec.keys() == {"failurePolicy", "matchConstraints", "matchConditions", "variables", "validations"}
    said = [entry["expression"] for part in ("variables", "validations") for entry in spec[part]]
    said += [entry["messageExpression"] for entry in spec["validations"] if "messageExpression" in entry]
    declared: set[str] = set()
    for entry in spec["variables"]:  # each may use those before it
        assert set(re.findall(r"variables\.(\w+)", entry["expression"])) <= declared
        declared.add(entry["name"])
    assert set(re.findall(r"variables\.(\w+)", " ".join(said))) == declared, "all are used, none is missing"
    for entry in spec["validations"]:
        assert entry.keys() <= {"expression", "message", "messageExpression", "reason"}
        assert ("message" in entry) != ("messageExpression" in entry)
