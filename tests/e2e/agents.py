"""Dagwall on the cluster, from the manifests that people apply; what it says, and variations of its DaemonSet."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.cluster import Cluster, ready, wait_for

ROOT = Path(__file__).parents[2]
SYSTEM = "dagwall-system"
_ASK = """
import json, sys
from pathlib import Path
from agent.outputs.client import Client
print(json.dumps(Client(Path("/run/dagwall/dagwall.sock")).ask(sys.argv[1])))
"""
SELECTOR = "app.kubernetes.io/name=dagwall,app.kubernetes.io/component=agent"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def daemonset() -> dict[str, Any]:
    """As in daemonset.yaml, but for the time that an answer may take: the machine may be emulated."""
    (found,) = (obj for obj in documents(ROOT / "daemonset.yaml") if obj["kind"] == "DaemonSet")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        container(found)[probe]["timeoutSeconds"] = 30
    container(found)["startupProbe"]["failureThreshold"] = 300
    return found


def container(obj: dict[str, Any]) -> dict[str, Any]:
    """The agent's, of a DaemonSet."""
    found: dict[str, Any]
    (found,) = obj["spec"]["template"]["spec"]["containers"]
    return found


class Agents:
    """The DaemonSet and its pods, on a cluster of any number of nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def install(self) -> None:
        """The manifests; the DaemonSet last."""
        self.cluster.apply(*(obj for obj in documents(ROOT / "daemonset.yaml") if obj["kind"] != "DaemonSet"))
        self.roll(daemonset())

    def roll(self, obj: dict[str, Any], *, until_ready: bool = True) -> None:
        """Change the DaemonSet and wait until every node has a pod of the new kind, ready where that is asked for."""
        wanted = copy.deepcopy(obj)
        self.cluster.apply(wanted)
        generation = self.cluster.get(wanted)["metadata"]["generation"]

        def done() -> bool:
            status = self.cluster.get(wanted)["status"]
            count = status["desiredNumberScheduled"]
            updated = status.get("updatedNumberScheduled") == count > 0
            fresh = status.get("observedGeneration", 0) >= generation and len(self.pods()) == count
            return fresh and updated and (not until_ready or status.get("numberReady", 0) == count)

        wait_for("agents of the new kind", done)

    def pods(self) -> list[dict[str, Any]]:
        return self.cluster.list(f"/api/v1/namespaces/{SYSTEM}/pods", labelSelector=SELECTOR)

    def of(self, node: str) -> str:
        """The name of a node's agent that runs."""
        (name,) = (
            pod["metadata"]["name"]
            for pod in self.pods()
            if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]
        )
        return str(name)

    def ready(self) -> bool:
        pods = self.pods()
        return bool(pods) and all(ready(pod) for pod in pods)

    def ask(self, node: str, question: str) -> Any:
        """What a noun command says as JSON, without the command line, whose imports take a minute when emulated."""
        return json.loads(self.python(node, _ASK, question))

    def answers(self, node: str) -> bool:
        """Ready or not."""
        try:
            self.ask(node, "status")
        except AssertionError:
            return False
        return True

    def python(self, node: str, program: str, *arguments: str) -> str:
        """A program's output, run in a node's agent by dagwall's own Python."""
        command = ("/opt/dagwall/bin/python", "-c", program, *arguments)
        return self.cluster.run(SYSTEM, self.of(node), *command, container="agent")

    def said(self, node: str, *words: str) -> str:
        """What a command prints for people."""
        return self.cluster.run(SYSTEM, self.of(node), "dagwall", *words, container="agent")

    def log(self, node: str, **query: str) -> str:
        return self.cluster.log(SYSTEM, self.of(node), container="agent", **query)

    def restarts(self, node: str) -> int:
        """Of a node's agent, as the kubelet counts them."""
        (pod,) = (pod for pod in self.pods() if pod["spec"].get("nodeName") == node)
        return int(pod["status"]["containerStatuses"][0]["restartCount"])
