"""Ten thousand pods of other nodes in one agent's memory, read from a real API server because a policy selects tasks.

MANY_PODS (2000) changes how many. What the agent needs is printed (pytest -s); what fails is a representation that
has lost its frugality.
"""

from __future__ import annotations

import copy
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.sources.kube_api import KubeApi
from lab.node import ScratchNode
from tests.api.control_plane import ROOT, ControlPlane
from tests.api.test_churn import agent_on
from tests.api.test_definitions import served  # noqa: F401
from tests.api.test_source import in_namespace
from tests.kernel.rig import eventually

COUNT = int(os.environ.get("MANY_PODS", "2000"))
WHERE = "many"
MOST_BYTES = 4000  # of a pod: 40 MB for ten thousand
SLACK_MB = 35  # what lists and the heap need for a moment and keep; tests/unit/test_store.py is exact
_HOSTS = 'dagwall_map_entries{map="hosts"}'


def manifest(recorded: dict[str, Any], number: int) -> dict[str, Any]:
    """A pod as Airflow made it, of one of 200 tasks, on another node."""
    made = copy.deepcopy(recorded)
    kept = {key: made["metadata"][key] for key in ("labels", "annotations")}
    kept["annotations"] |= {"dag_id": f"many_{number % 50}", "task_id": f"t{number % 200}"}
    containers = [{"name": "base", "image": "none", "args": made["spec"]["containers"][0].get("args", [])}]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"many-{number}", "namespace": WHERE, **kept},
        "spec": {"nodeName": "n2", "automountServiceAccountToken": False, "containers": containers},
    }  # fmt: skip


def make(api: KubeApi) -> None:
    recorded = json.loads((ROOT / "tests/data/airflow/pods-3.3.2-ke-normal.json").read_text())
    pods = f"/api/v1/namespaces/{WHERE}/pods"

    def one(number: int) -> None:
        api.send("POST", pods, manifest(recorded, number))
        status = {
            "status": {"phase": "Running", "podIP": f"10.{88 + number // 62500}.{number // 250 % 250}.{number % 250}"}
        }
        api.send("PATCH", f"{pods}/many-{number}/status", status, kind="application/merge-patch+json")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(COUNT)))


@pytest.mark.timeout(120 + COUNT / 25)
def test_memory_of_many_pods(plane: ControlPlane, served: ControlPlane, tmp_path: Path) -> None:  # noqa: F811
    in_namespace(plane, WHERE, **{"dagwall.io/managed": "true"})
    rule = {"to": [{"tasks": {"dagIds": ["many_*"]}}], "ports": [{"port": 80}]}
    policy = {
        "apiVersion": "dagwall.io/v1alpha1", "kind": "TaskNetworkPolicy",
        "metadata": {"name": "many", "namespace": WHERE}, "spec": {"egress": [rule]},
    }  # fmt: skip
    plane.apply(policy)
    api = KubeApi.connect(str(plane.kubeconfig()))
    try:
        with ScratchNode() as node:
            (tmp_path / "few").mkdir()
            with agent_on(node, plane, tmp_path / "few") as agent:
                few, known = agent.resident_mb(), agent.metrics()[_HOSTS]
            make(api)
            (tmp_path / "many").mkdir()
            with agent_on(node, plane, tmp_path / "many") as agent:
                assert eventually(lambda: agent.metrics().get(_HOSTS, 0) >= known + COUNT, 60), agent.kept()
                time.sleep(2)
                many = agent.resident_mb()
    finally:
        plane.delete(policy)
        plane.request("DELETE", f"/api/v1/namespaces/{WHERE}/pods?gracePeriodSeconds=0")
    print(f"\n{COUNT} pods: {many:.0f} MB, {few:.0f} MB without them")
    assert many - few < COUNT * MOST_BYTES / 1e6 + SLACK_MB
