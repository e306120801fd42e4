"""Agent start to enforcing, and its memory, with pods and policies in a folder and their cgroups in place."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import yaml

from agent.app.agent import build, resident_bytes
from agent.config import Config
from agent.kernel.datapath import detach
from agent.model.cluster import Settings
from agent.model.flow import Denial, Flow
from lab.node import ScratchNode, cgroup_mount


@dataclass(frozen=True)
class Cost:
    """Seconds from the start of the process to the last attachment; bytes some seconds later."""

    endpoints: int
    start_seconds: float
    resident_bytes: int


class _Nowhere:
    def flows(self, flows: list[Flow]) -> None:
        """Not kept."""

    def denials(self, denials: list[Denial]) -> None:
        """Not kept."""


def measure(endpoints: int) -> Cost:
    """In a process of its own, so that memory is the agent's."""
    with ScratchNode() as node, tempfile.TemporaryDirectory() as folder:
        manifests = Path(folder) / "manifests"
        manifests.mkdir()
        uids = [str(uuid.UUID(int=n + 1, version=4)) for n in range(endpoints)]
        (manifests / "all.json").write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": _objects(uids)}))
        for uid in uids:
            (node.kubepods / "burstable" / f"pod{uid}" / ("c" * 64)).mkdir(parents=True)
        root = f"/{node.kubepods.relative_to(cgroup_mount())}"
        command = [
            sys.executable,
            "-m",
            "bench.agent_cost",
            str(manifests),
            root,
            str(node.bpffs / "dagwall"),
            folder,
        ]
        try:
            began = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            seen = json.loads(done.stdout.splitlines()[-1])
        finally:
            detach(node.bpffs / "dagwall")
        return Cost(endpoints, seen["at"] - began, seen["resident_bytes"])


def _objects(uids: list[str]) -> list[dict[str, object]]:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "airflow"}}
    namespace["metadata"]["labels"] = {"dagwall.io/managed": "true"}  # type: ignore[index]
    pods = [
        yaml.safe_load(f"""
apiVersion: v1
kind: Pod
metadata:
  name: p{n}
  namespace: airflow
  uid: {uid}
  labels: {{kubernetes_executor: "True"}}
  annotations: {{dag_id: dag{n % 20}, task_id: task{n}}}
spec: {{serviceAccountName: worker, nodeName: bench, containers: [{{name: base}}]}}
status: {{podIP: 10.128.{n // 250}.{n % 250}}}
""")
        for n, uid in enumerate(uids)
    ]
    policies = [
        yaml.safe_load(f"""
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: policy{n}, namespace: airflow}}
spec:
  subject: {{dagIds: [dag{n}]}}
  egress: [{{to: [{{cidr: 20.{n}.0.0/16}}], ports: [{{port: 443}}]}}]
""")
        for n in range(20)
    ]
    return [namespace, *pods, *policies]


def _child(manifests: str, root: str, pins: str, folder: str) -> None:
    config = Config(
        files=Path(manifests), node="bench", cgroup_roots=frozenset({root}), pins=Path(pins),
        state=Path(folder) / "state", log_folders=Path(folder) / "logs",
    )  # fmt: skip
    agent = build(config, Settings(pod_ranges=(ip_network("10.128.0.0/9"),)), _Nowhere(), lambda _: None)
    enforcing = time.monotonic()
    threading.Timer(8, agent.stop).start()
    agent.run()
    print(json.dumps({"at": enforcing, "resident_bytes": resident_bytes()}))


if __name__ == "__main__":
    _child(*sys.argv[1:])
