"""`dagwall rbac` on a real API server: what it may read, and that Secrets' data never come."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.main import main
from agent.sources.access import AccessReader
from agent.sources.kube_api import KubeApi
from tests.api.control_plane import ControlPlane
from tests.api.test_definitions import served  # noqa: F401
from tests.api.test_source import namespace

HOME, OURS = "rbac-home", "dagwall.io/v1alpha1"


def home(obj: dict[str, Any], name: str) -> dict[str, Any]:
    return obj | {"metadata": {"name": name, "namespace": HOME, **obj.get("metadata", {})}}


@pytest.fixture
def cluster(plane: ControlPlane, served: ControlPlane) -> ControlPlane:  # noqa: F811
    managed = namespace(HOME)
    managed["metadata"]["labels"] = {"dagwall.io/managed": "true"}
    token = {
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"annotations": {"kubernetes.io/service-account.name": "etl"}},
        "data": {"token": base64.b64encode(b"very secret").decode()},
    }  # fmt: skip
    makes = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}
    subject = {"kind": "ServiceAccount", "name": "worker", "namespace": HOME}
    rbac = "rbac.authorization.k8s.io/v1"
    spec = {"namespace": HOME, "serviceAccounts": ["etl"], "dagIds": ["sales_*"]}
    plane.apply(
        managed,
        *(home({"apiVersion": "v1", "kind": "ServiceAccount"}, name) for name in ("etl", "worker")),
        home(token, "etl-token"),
        home({"apiVersion": rbac, "kind": "Role", "rules": [makes]}, "pods"),
        home(
            {"apiVersion": rbac, "kind": "RoleBinding", "subjects": [subject],
             "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"}},
            "pods",
        ),
        {"apiVersion": OURS, "kind": "TaskIdentityBinding", "metadata": {"name": HOME}, "spec": spec},
        home(
            {"apiVersion": OURS, "kind": "TaskNetworkPolicy",
             "spec": {"subject": {"serviceAccounts": ["etl"]}, "egress": []}},
            "etl",
        ),
    )  # fmt: skip
    return plane


def asked(cluster: ControlPlane, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["rbac", "--kubeconfig", str(cluster.kubeconfig()), "-n", HOME, *words])
    return done.exit_code, done.output


def test_a_real_cluster_is_told(cluster: ControlPlane, tmp_path: Path) -> None:
    roles = tmp_path / "roles.json"
    roles.write_text(json.dumps([{"name": "Sales", "resource": "DAG:sales_daily", "action": "can_edit"}]))
    code, text = asked(cluster, "--airflow-roles", str(roles), "-o", "json")
    assert code == 3, text
    found = json.loads(text)
    assert {"service_account": f"{HOME}/worker", "power": "make pods", "names": [], "namespace": HOME,
            "by": f"RoleBinding {HOME}/pods (Role pods)"} in found["rights"]  # fmt: skip
    assert [each["secret"] for each in found["tokens"]] == [f"{HOME}/etl-token"]
    etl = next(each for each in found["chains"] if each["service_account"] == f"{HOME}/etl")
    assert etl["dag_ids"] == ["sales_*"]
    assert etl["airflow_roles"] == ["Sales"]
    assert f"TaskNetworkPolicy/{HOME}/etl" in etl["policies"]
    about = {each["about"] for each in found["problems"]}
    assert {f"ServiceAccount/{HOME}/worker", f"Secret/{HOME}/etl-token"} <= about
    code, text = asked(cluster)
    assert code == 3
    assert "SERVICE ACCOUNT" in text
    assert "can be every service account of namespace" in text


def test_the_data_of_secrets_stay_on_the_server(cluster: ControlPlane) -> None:
    api = KubeApi.connect(str(cluster.kubeconfig()))
    answer = api.get_metadata("/api/v1/secrets", fieldSelector="type=kubernetes.io/service-account-token")
    assert answer["items"]
    assert not any("data" in each for each in answer["items"])
    assert [each.account for each in AccessReader(api).tokens() if each.namespace == HOME] == ["etl"]


def test_what_is_refused_or_wrong_is_one_line(cluster: ControlPlane, tmp_path: Path) -> None:
    poor = str(cluster.token_kubeconfig(HOME, "etl"))
    done = CliRunner().invoke(main, ["rbac", "--kubeconfig", poor])
    assert done.exit_code == 1
    assert "GET /api/v1/namespaces: 403" in done.output
    broken = tmp_path / "roles.json"
    broken.write_text("{")
    assert asked(cluster, "--airflow-roles", str(broken))[0] == 1
    done = CliRunner().invoke(main, ["rbac", "--kubeconfig", str(cluster.kubeconfig()), "-n", "kube-system"])
    assert "Error: --namespace: 'kube-system' is no managed namespace of this cluster" in done.output
