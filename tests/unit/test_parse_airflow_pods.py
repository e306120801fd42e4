"""Identities of all recorded Airflow pods (I1): four Airflow versions, executor, operator, components, spoofs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.model.airflow_labels import safe_label_value
from agent.model.cluster import Pod
from agent.model.identity import Kind
from agent.parse.objects import parse_object

FOLDER = Path(__file__).parents[1] / "data" / "airflow"
FILES = sorted(FOLDER.glob("pods-*.json"))
UID = "cc7a1de5-1bf8-4567-ae3a-697995d1d600"

KE, KPO, COMPONENT = Kind.KUBERNETES_EXECUTOR, Kind.KUBERNETES_POD_OPERATOR, Kind.COMPONENT
LONG_DAG = "finance.reporting.daily_reconciliation_of_all_accounts_receivable_and_payable_v2"
LONG_TASK = "task_with_a_really_long_identifier_that_does_not_fit_into_a_kubernetes_label_value"
EXPECTED = {  # case: kind, namespace, service account, dag_id, task_id
    "ke-normal": (KE, "airflow", "airflow-worker", "simple_etl", "extract"),
    "ke-mapped": (KE, "airflow", "airflow-worker", "simple_etl", "mapped"),
    "ke-taskgroup": (KE, "airflow", "airflow-worker", "simple_etl", "group_a.inner.load"),
    "ke-retry-try1": (KE, "airflow", "airflow-worker", "simple_etl", "flaky"),
    "ke-retry-try2": (KE, "airflow", "airflow-worker", "simple_etl", "flaky"),
    "ke-long-ids": (KE, "airflow", "airflow-worker", LONG_DAG, LONG_TASK),
    "ke-unicode-ids": (KE, "airflow", "airflow-worker", "umsätze_täglich", "größe"),
    "ke-underscore-id": (KE, "airflow", "airflow-worker", "_private_dag", "t1"),
    "ke-deferred-first": (KE, "airflow", "airflow-worker", "defer_dag", "wait_async"),
    "ke-deferred-resumed": (KE, "airflow", "airflow-worker", "defer_dag", "wait_async"),
    "ke-kpo-parent-worker": (KE, "airflow", "airflow-worker", "kpo_dag", "kpo_plain"),
    "ke-multiteam": (KE, "team-a", "team-a-worker", "team_a_dag", "t"),
    "ke-override-spoof-labels": (KE, "airflow", "airflow-worker", "override_dag", "spoof_labels"),
    "ke-override-spoof-annotations": (KE, "airflow", "airflow-worker", "simple_etl", "extract"),
    "ke-override-spoof-sa": (KE, "airflow", "payments-sa", "override_dag", "spoof_sa"),
    "ke-override-other-namespace": (KE, "payments", "airflow-worker", "override_dag", "other_namespace"),
    "ke-override-host-network": (KE, "airflow", "airflow-worker", "override_dag", "host_network"),
    "ke-override-capabilities": (KE, "airflow", "airflow-worker", "override_dag", "capabilities"),
    "ke-override-sidecar-init": (KE, "airflow", "airflow-worker", "override_dag", "sidecar_init"),
    "kpo-plain": (KPO, "airflow", "default", "kpo_dag", "kpo_plain"),
    "kpo-sa": (KPO, "airflow", "etl-writer", "kpo_dag", "kpo_sa"),
    "kpo-spoof": (KPO, "airflow", "payments-sa", "kpo_dag", "kpo_spoof"),
    "kpo-deferrable": (KPO, "airflow", "default", "kpo_dag", "kpo_deferrable"),
    "kpo-xcom-sidecar": (KPO, "airflow", "default", "kpo_dag", "kpo_xcom_sidecar"),
    "kpo-full-spec": (KPO, "airflow", "custom-sa", "kpo_dag", "kpo_full_spec"),
    "kpo-mapped": (KPO, "airflow", "default", "kpo_dag", "kpo_mapped"),
    "kpo-task-decorator": (KPO, "airflow", "default", "kpo_dag", "deco_k8s"),
}
SPOOFED = {"ke-override-spoof-labels", "ke-override-spoof-annotations", "kpo-spoof"}


def case_of(file: Path) -> str:
    return file.stem.split("-", 2)[2]


def manifest(file: Path) -> dict[str, Any]:
    obj = json.loads(file.read_text())
    obj["metadata"]["uid"] = UID
    return obj


def parsed(file: Path) -> Pod:
    pod = parse_object(manifest(file), cluster="c1")
    assert isinstance(pod, Pod)
    return pod


def recorded(case: str) -> list[Pod]:
    pods = [parsed(file) for file in FILES if case_of(file) == case]
    assert pods
    return pods


def test_all_of_them_are_here() -> None:
    assert len(FILES) == 112


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_identity(file: Path) -> None:
    pod, case = parsed(file), case_of(file)
    identity = pod.claim.identity
    if case.startswith("chart-"):
        component = case.rsplit("-", 1)[1]
        account = f"airflow-{case.removeprefix('chart-celery-').removeprefix('chart-k8sexec-')}"
        expected = (COMPONENT, "airflow", account, "", "")
        assert component in account
    else:
        expected = EXPECTED[case]
    assert (
        identity.kind,
        identity.namespace,
        identity.service_account,
        identity.dag_id,
        identity.task_id,
    ) == expected
    assert identity.cluster == "c1"
    assert identity.ambiguous == (identity.kind is KPO)
    assert bool(pod.claim.contradictions) == (case in SPOOFED)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tokens_args_and_env_never_get_into_a_value(file: Path) -> None:
    text = repr(parsed(file))
    for secret in ("REDACTED", "JWT", "token", "GITSYNC", "SQL_ALCHEMY", "execute_workload", "airflow tasks run"):
        assert secret not in text


@pytest.mark.parametrize("file", [f for f in FILES if "-ke-" in f.name], ids=lambda file: file.stem)
def test_facts_of_executor_pods_are_unhashed(file: Path) -> None:
    claim = parsed(file).claim
    labels = dict(claim.labels)
    assert "+00:00" in claim.run_id
    assert labels["run_id"] == safe_label_value(claim.run_id)
    assert claim.try_number == ("2" if case_of(file) == "ke-retry-try2" else "1")
    assert claim.map_index == ("1" if case_of(file) == "ke-mapped" else "")


def test_a_mapped_operator_pod_has_its_index() -> None:
    assert {pod.claim.map_index for pod in recorded("kpo-mapped")} == {"0"}


def test_spoofed_labels_are_told() -> None:
    for pod in recorded("ke-override-spoof-labels"):
        assert "annotation dag_id 'override_dag' does not make label 'payments'" in pod.claim.contradictions
        assert "label component 'scheduler' on a pod with kubernetes_executor" in pod.claim.contradictions


def test_spoofed_annotations_of_an_operator_pod_do_not_count_and_are_told() -> None:
    for pod in recorded("kpo-spoof"):
        assert pod.claim.run_id != "x"
        assert (
            "labels kubernetes_pod_operator and kubernetes_executor exclude one another" in pod.claim.contradictions
        )
        assert "annotation dag_id 'payments' does not make label 'kpo_dag'" in pod.claim.contradictions


def test_pods_that_can_escape_say_why() -> None:
    for pod in recorded("ke-override-capabilities"):
        assert [each.way for each in pod.escapes[:3]] == ["privileged", "SYS_ADMIN", "NET_ADMIN"]
    for pod in recorded("ke-override-host-network"):
        assert pod.host_network
