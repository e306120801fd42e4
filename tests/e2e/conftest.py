"""One cluster for the session, given by KUBECONFIG (`make e2e` makes one), with dagwall installed on it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import programs, workloads
from tests.e2e.agents import Agents
from tests.e2e.cluster import SLOW_SECONDS, Cluster, NodeShell
from tests.e2e.workloads import Reconfigure, Rig, Start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(4 * SLOW_SECONDS))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    if not os.environ.get("KUBECONFIG"):
        pytest.exit("tests/e2e wants a cluster: `make e2e`, or KUBECONFIG", 2)
    return Cluster()


@pytest.fixture(scope="session")
def rig(cluster: Cluster) -> Rig:
    """Dagwall installed from its manifests; a namespace of tasks with a policy, and one with two echo servers."""
    agents = Agents(cluster)
    agents.install()
    cluster.apply(workloads.namespace(workloads.SERVERS, e2e="servers"))
    cluster.apply(workloads.namespace(workloads.TASKS, **{"dagwall.io/managed": "true"}))
    cluster.apply(workloads.POLICY)
    pods = [workloads.pod(name, workloads.SERVERS, programs.SERVE) for name in ("allowed", "forbidden")]
    cluster.delete(*pods)
    node = str(cluster.list("/api/v1/nodes")[0]["metadata"]["name"])
    return Rig(cluster, agents, node, workloads.start(cluster, *pods))


@pytest.fixture
def tasks(rig: Rig) -> Iterator[Start]:
    """Starts pods of tasks, and removes them after the test."""
    made: list[dict[str, Any]] = []

    def start(*pods: dict[str, Any]) -> dict[str, str]:
        rig.cluster.delete(*pods)
        made.extend(pods)
        return workloads.start(rig.cluster, *pods)

    yield start
    rig.cluster.delete(*made)


@pytest.fixture(scope="session")
def shell() -> NodeShell:
    command = os.environ.get("E2E_NODE_SHELL")
    if not command:
        pytest.skip("E2E_NODE_SHELL, a command that runs a shell line on the node, is not set")
    return NodeShell(command)


@pytest.fixture(scope="session")
def reconfigure() -> Reconfigure:
    """Gives the node's kubelet and its runtime other cgroup drivers; no pod survives that."""
    command = os.environ.get("E2E_RECONFIGURE")
    if not command:
        pytest.skip("E2E_RECONFIGURE, a command that changes the node's cgroup drivers, is not set")

    def run(kubelet: str, runtime: str, root: str = "") -> None:
        subprocess.run([*shlex.split(command), kubelet, runtime, root], stdin=subprocess.DEVNULL, check=True)

    return run
