"""The whole agent with the API server as its source: policies, pods and cgroups come and go, verdicts follow."""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.app.agent import Agent, build
from agent.config import Config
from agent.kernel.datapath import detach
from agent.model.cluster import Settings
from agent.sources.store import FRESH_SECONDS
from lab.node import PROGRAM_CACHE, Pod, ScratchNode, cgroup_mount
from tests.api.control_plane import ROOT, ControlPlane
from tests.api.test_definitions import served  # noqa: F401
from tests.api.test_source import in_namespace, pod
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp
from tests.kernel.test_agent import Collected

V4 = "192.0.2.70"
REFUSED = ("EACCES", "EPERM")


def policy(where: str, port: int) -> dict[str, Any]:
    rule = {"name": "only", "to": [{"cidr": f"{V4}/32"}], "ports": [{"port": port}]}
    return {
        "apiVersion": "dagwall.io/v1alpha1",
        "kind": "TaskNetworkPolicy",
        "metadata": {"name": "etl", "namespace": where},
        "spec": {"subject": {"dagIds": ["simple_etl"]}, "egress": [rule]},
    }


@contextmanager
def running(agent: Agent, *, complete: bool = True) -> Iterator[Agent]:
    """From the first complete list to the agent's end; from its start where nothing can be listed yet."""
    thread = threading.Thread(target=agent.run)
    thread.start()
    try:
        assert not complete or eventually(lambda: agent.node.writer.cluster.complete, 30)
        yield agent
    finally:
        agent.stop()
        thread.join()


class Cluster:
    """A scratch node whose pods the API server knows, and an agent on it."""

    def __init__(self, plane: ControlPlane, node: ScratchNode, folder: Path, name: str) -> None:
        self.plane, self.node, self.folder, self.name = plane, node, folder, name
        in_namespace(plane, name, **{"dagwall.io/managed": "true"})

    @contextmanager
    def agent(self, *, complete: bool = True) -> Iterator[Agent]:
        config = Config(
            node="n1", kubeconfig=self.plane.kubeconfig(), pins=self.node.bpffs / "dagwall",
            cgroup_roots=frozenset({f"/{self.node.kubepods.relative_to(cgroup_mount())}"}),
            state=self.folder / "state", log_folders=self.folder / "logs", drain_seconds=0.5,
            program_cache=PROGRAM_CACHE,
        )  # fmt: skip
        settings = Settings(pod_ranges=(ip_network("10.77.0.0/16"),))
        with running(build(config, settings, [Collected()]), complete=complete) as agent:
            yield agent

    def admit(self, recorded: str, name: str) -> Pod:
        """What the scheduler and the kubelet do with a pod that Airflow made: bind it, then make its cgroup."""
        manifest = json.loads((ROOT / "tests" / "data" / "airflow" / f"pods-{recorded}.json").read_text())
        manifest["metadata"] |= {"namespace": self.name, "name": name}
        manifest["spec"] = {
            "nodeName": "n1",
            "automountServiceAccountToken": False,
            "containers": [{"name": "base", "image": "none"}],
        }
        (made,) = self.plane.apply(manifest)
        return self.node.add_pod(made["metadata"]["uid"])

    def follows(self, check: Callable[[], bool]) -> bool:
        return eventually(check, 10)


C = TypeVar("C", bound=Cluster)


@contextmanager
def on_a_node(of: type[C], plane: ControlPlane, folder: Path, name: str) -> Iterator[C]:
    """Of this class, with a scratch node that it leaves without programs."""
    with ScratchNode() as node:
        try:
            yield of(plane, node, folder, name)
        finally:
            detach(node.bpffs / "dagwall")


@pytest.fixture
def cluster(
    plane: ControlPlane,
    served: ControlPlane,  # noqa: F811
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Cluster]:
    with on_a_node(Cluster, plane, tmp_path, f"t{abs(hash(request.node.name)) % 10**8}") as cluster:
        yield cluster


def test_verdicts_follow_the_api(cluster: Cluster) -> None:
    cluster.node.serve(V4, 8201)
    cluster.node.serve(V4, 8202)
    with cluster.agent():
        cluster.plane.apply(policy(cluster.name, 8201))
        pod = cluster.admit("3.3.2-ke-normal", "etl-1")
        assert cluster.follows(lambda: pod.run(tcp, V4, 8202) in REFUSED)
        assert pod.run(tcp, V4, 8201) == "ok"
        cluster.plane.apply(policy(cluster.name, 8202))
        assert cluster.follows(lambda: pod.run(tcp, V4, 8202) == "ok")
        assert pod.run(tcp, V4, 8201) in REFUSED
        cluster.plane.delete(policy(cluster.name, 8202))
        assert cluster.follows(lambda: pod.run(tcp, V4, 8201) == "ok"), "observed: nothing isolates it any more"


def test_a_remote_pod_that_is_relabelled_stays_who_it_was_across_a_restart(cluster: Cluster) -> None:
    """I2 for peers: what is known from the API only is worth no more after a restart, with or without a state."""
    cluster.node.serve(V4, 8211)
    wanted = policy(cluster.name, 8211)
    wanted["spec"]["egress"] = [{"to": [{"tasks": {"dagIds": ["billing"]}}], "ports": [{"port": 8211}]}]
    cluster.plane.apply(wanted)
    remote = pod("remote", cluster.name, "n2", dag_id="reports", task_id="t")
    cluster.plane.apply(remote)
    where = cluster.plane.path_of(remote, named=True)
    patch = "application/merge-patch+json"
    cluster.plane.request("PATCH", f"{where}/status", {"status": {"podIP": V4, "phase": "Running"}}, kind=patch)
    with cluster.agent():
        task = cluster.admit("3.3.2-ke-normal", "etl-1")
        assert cluster.follows(lambda: task.run(tcp, V4, 8211) in REFUSED)
        cluster.plane.request("PATCH", where, {"metadata": {"annotations": {"dag_id": "billing"}}}, kind=patch)
        time.sleep(3)
        assert task.run(tcp, V4, 8211) in REFUSED
    with cluster.agent():
        assert cluster.follows(lambda: task.run(tcp, V4, 8211) in REFUSED)
        assert task.run(tcp, V4, 8211) in REFUSED
    time.sleep(FRESH_SECONDS)  # what was made just now counts by what it says
    shutil.rmtree(cluster.folder / "state")
    with cluster.agent() as agent:
        assert agent.node.writer.cluster.complete
        time.sleep(1)
        assert task.run(tcp, V4, 8211) in REFUSED, "late: nobody knows what it said when it was made"
    cluster.plane.delete(remote)  # its address is other tests', too
    cluster.plane.delete(wanted)  # and agents that know no such policy do not read others' pods


def test_a_namespace_that_is_managed_or_not(cluster: Cluster) -> None:
    cluster.node.serve(V4, 8203)
    cluster.plane.apply(policy(cluster.name, 1))
    with cluster.agent():
        pod = cluster.admit("2.11.2-ke-normal", "etl-2")
        assert cluster.follows(lambda: pod.run(tcp, V4, 8203) in REFUSED)
        in_namespace(cluster.plane, cluster.name)
        assert cluster.follows(lambda: pod.run(tcp, V4, 8203) == "ok")
        in_namespace(cluster.plane, cluster.name, **{"dagwall.io/managed": "true"})
        assert cluster.follows(lambda: pod.run(tcp, V4, 8203) in REFUSED)


def test_the_api_may_be_away_while_the_agent_starts_again(cluster: Cluster) -> None:
    cluster.node.serve(V4, 8204)
    cluster.plane.apply(policy(cluster.name, 8204))
    with cluster.agent():
        pod = cluster.admit("3.3.2-ke-mapped", "etl-3")
        assert cluster.follows(lambda: pod.run(tcp, V4, 8205) in REFUSED)
        assert pod.run(tcp, V4, 8204) == "ok"
    cluster.plane.kill("kube-apiserver")
    restarting = threading.Timer(5, cluster.plane.start_apiserver)
    restarting.start()
    began = time.monotonic()
    with cluster.agent() as agent:
        assert time.monotonic() - began > 4, "the snapshot was complete only when the server was back"
        assert pod.run(tcp, V4, 8204) == "ok"
        assert pod.run(tcp, V4, 8205) in REFUSED
        assert agent.datapath.adopted
    restarting.join()


def test_a_node_boots_whose_control_plane_is_pods_of_its_own(cluster: Cluster) -> None:
    """L2, L3: the API server, DNS and proxy come up before the API can say who they are; tasks wait for it."""
    in_namespace(cluster.plane, "kube-system")
    cluster.plane.apply(policy(cluster.name, 8206))
    with cluster.agent():
        task = cluster.admit("3.3.2-ke-normal", "etl-4")
    detach(cluster.node.bpffs / "dagwall")
    cluster.plane.kill("kube-apiserver")
    with ScratchNode() as booted:
        cluster.node = booted
        booted.serve(V4, 8206)
        booted.serve(V4, 8207)
        static, *others = (uuid.uuid4() for _ in range(3))
        uids = {"kube-apiserver-n1": static.hex, "coredns-1": str(others[0]), "kube-proxy-1": str(others[1])}
        for name, uid in uids.items():
            (cluster.folder / "logs" / f"kube-system_{name}_{uid}").mkdir(parents=True)
        (cluster.folder / "logs" / f"{cluster.name}_etl-4_{task.uid}").mkdir()
        try:
            with cluster.agent(complete=False) as agent:
                control_plane = [booted.add_pod(uid) for uid in uids.values()]
                again = booted.add_pod(task.uid)
                for pod in control_plane:
                    assert cluster.follows(lambda pod=pod: pod.run(tcp, V4, 8207) == "ok"), pod.uid
                assert again.run(tcp, V4, 8206) == "TIMEOUT"
                cluster.plane.start_apiserver()
                assert eventually(lambda: agent.node.writer.cluster.complete, 30)
                assert cluster.follows(lambda: again.run(tcp, V4, 8206) == "ok")
                assert again.run(tcp, V4, 8207) in REFUSED
                assert all(pod.run(tcp, V4, 8207) == "ok" for pod in control_plane)
        finally:
            detach(booted.bpffs / "dagwall")
