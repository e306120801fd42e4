"""Objects of the tests: namespaces, an echo server that tasks may reach, one that they may not, and tasks' pods."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.e2e import programs
from tests.e2e.agents import Agents
from tests.e2e.cluster import Cluster, ready, wait_for

Start = Callable[..., dict[str, str]]
Reconfigure = Callable[..., None]

IMAGE = "dagwall:0.1.0"
"""Dagwall's own, because it is on the node and has Python."""

TASKS, SERVERS = "dagwall-e2e", "dagwall-e2e-servers"
PORT = 8080
REFUSED = ("EACCES", "EPERM")


@dataclass(frozen=True, slots=True)
class Rig:
    """The cluster as the tests find it. `servers`: addresses of the echo servers `allowed` and `forbidden`."""

    cluster: Cluster
    agents: Agents
    node: str
    servers: dict[str, str]

    def endpoint(self, pod: str) -> dict[str, Any] | None:
        """A task's pod as the kernel sees it; None where it is none."""
        rows = self.agents.ask(self.node, "endpoints")
        return next((row for row in rows if (row["namespace"], row["pod"]) == (TASKS, pod)), None)

    def attempt(self, task: str, *targets: str) -> list[str]:
        """What a task's own code sees: ok, timeout, or the error's name, of each kind,address,port."""
        said = self.cluster.run(TASKS, task, "/usr/bin/python3", "-S", "-c", programs.TRY, *targets)
        return list(json.loads(said))

    def judge(self, task: str) -> None:
        """TCP and UDP to the server that it may reach, then to the other, then to metadata."""
        of = (self.servers["allowed"], self.servers["forbidden"])
        targets = [f"{kind},{address},{PORT}" for address in of for kind in ("tcp", "udp")]
        *allowed, tcp, udp, metadata = self.attempt(task, *targets, "tcp,169.254.169.254,80")
        assert allowed == ["ok", "ok"], task
        assert all(said in REFUSED for said in (tcp, udp, metadata)), (task, tcp, udp, metadata)


QOS: dict[str, dict[str, Any]] = {
    "guaranteed": {k: {"cpu": "250m", "memory": "64Mi"} for k in ("limits", "requests")},
    "burstable": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    "besteffort": {},
}

_ALLOWED = {
    "namespaceSelector": {"matchLabels": {"e2e": "servers"}},
    "podSelector": {"matchLabels": {"role": "allowed"}},
}
_RULE = {"name": "servers", "to": [{"pods": _ALLOWED}], "ports": [{"port": PORT}, {"port": PORT, "protocol": "UDP"}]}
POLICY = {
    "apiVersion": "dagwall.io/v1alpha1",
    "kind": "TaskNetworkPolicy",
    "metadata": {"name": "e2e", "namespace": TASKS},
    "spec": {"subject": {"dagIds": ["e2e"]}, "egress": [_RULE]},
}


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, where: str, program: str, *arguments: str, **spec: Any) -> dict[str, Any]:
    """A pod of one container that runs a program. `resources` go to the container, the rest to the pod."""
    container = {
        "name": "base",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/bin/python3", "-S", "-c", program, *arguments],
        "resources": spec.pop("resources", {}),
        "securityContext": {"capabilities": {"drop": ["NET_RAW"]}},
    }
    common = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": where, "labels": {"role": name}},
        "spec": {"containers": [container], **common, **spec},
    }


def task(name: str, program: str, *arguments: str, dag: str = "e2e", **spec: Any) -> dict[str, Any]:
    """A pod as Airflow's KubernetesExecutor makes it."""
    made = pod(name, TASKS, program, *arguments, **spec)
    ids = {"dag_id": dag, "task_id": name, "run_id": "manual__2026-01-01", "try_number": "1"}
    made["metadata"]["labels"] = {"kubernetes_executor": "True", "dag_id": dag, "task_id": name, "try_number": "1"}
    made["metadata"]["annotations"] = ids
    return made


def start(cluster: Cluster, *pods: dict[str, Any]) -> dict[str, str]:
    """Make the pods and wait until all are ready; their addresses by name."""
    cluster.apply(*pods)
    found = {}
    for one in pods:
        name = one["metadata"]["name"]
        running = wait_for(f"running pod {name}", lambda one=one: _ready(cluster, one))  # type: ignore[misc]
        found[name] = running["status"]["podIP"]
    return found


def _ready(cluster: Cluster, obj: dict[str, Any]) -> dict[str, Any] | None:
    found = cluster.get(obj)
    return found if ready(found) else None
