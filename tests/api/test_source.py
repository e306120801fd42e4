"""The source `kubernetes` against a real API server: what is there, what changes, what goes, and trouble."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from agent.model.cluster import Cluster
from agent.sources.kube_api import KubeApi
from agent.sources.kubernetes import KubernetesSource
from agent.sources.store import Store
from tests.api.control_plane import ControlPlane

NODE = "n1"


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, where: str, node: str = NODE, **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": where,
            "labels": {"kubernetes_executor": "True"},
            "annotations": annotations,
        },
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": False,
            "containers": [{"name": "base", "image": "none", "args": ["--json-string", '{"token": "SECRET-TOKEN"}']}],
        },
    }


class Reading:
    """A running source and the newest snapshot."""

    def __init__(self, source: KubernetesSource) -> None:
        self.source = source
        source.start()

    @property
    def cluster(self) -> Cluster:
        return self.source.store.snapshot

    def until(self, check: Callable[[Cluster], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not check(self.cluster):
            assert time.monotonic() < deadline, f"not in time: {self.cluster}"
            self.source.read(0.2)

    def names(self) -> set[str]:
        return {p.name for p in self.cluster.pods.values()}


@pytest.fixture
def reading(plane: ControlPlane) -> Iterator[Reading]:
    api = KubeApi.connect(str(plane.kubeconfig()))
    source = KubernetesSource(api, Store(Cluster()), NODE)
    try:
        yield Reading(source)
    finally:
        source.close()


def in_namespace(plane: ControlPlane, name: str, **labels: str) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    plane.apply(namespace(name, **labels), account)


def test_the_snapshot_is_complete_when_every_kind_was_listed(plane: ControlPlane, reading: Reading) -> None:
    in_namespace(plane, "first", **{"dagwall.io/managed": "true"})
    plane.apply(pod("mine", "first", dag_id="etl", task_id="load"), pod("theirs", "first", node="n2"))
    reading.until(lambda c: c.complete and "mine" in reading.names())
    (found,) = (
        p for p in reading.cluster.pods.values() if p.namespace == "first"
    )  # the other one is not this node's
    assert (found.claim.identity.dag_id, found.claim.identity.task_id) == ("etl", "load")
    assert reading.cluster.namespaces["first"].managed
    assert ("default", "kubernetes") in reading.cluster.services
    assert "SECRET-TOKEN" not in repr(reading.cluster), "arguments are dropped when they are decoded (S2)"


def test_changes_follow(plane: ControlPlane, reading: Reading) -> None:
    in_namespace(plane, "second")
    reading.until(lambda c: c.complete and "second" in c.namespaces)
    assert not reading.cluster.namespaces["second"].managed
    plane.apply(namespace("second", **{"dagwall.io/managed": "true"}))
    reading.until(lambda c: c.namespaces["second"].managed)
    one = pod("one", "second")
    (made,) = plane.apply(one)
    reading.until(lambda _: "one" in reading.names())
    path = f"{plane.path_of(one, named=True)}/status"
    plane.request("PATCH", path, {"status": {"podIP": "10.1.2.3"}}, kind="application/merge-patch+json")
    reading.until(lambda c: c.pods[made["metadata"]["uid"]].addresses == (ip_address("10.1.2.3"),))
    plane.delete(one)
    reading.until(lambda _: "one" not in reading.names())


def test_the_server_may_die_and_come_back(plane: ControlPlane, reading: Reading) -> None:
    in_namespace(plane, "third")
    keep, gone = pod("keep", "third"), pod("gone", "third")
    plane.apply(keep, gone)
    reading.until(lambda c: c.complete and {"keep", "gone"} <= reading.names())
    plane.kill("kube-apiserver")
    reading.until(lambda _: reading.source.stale_seconds() > 0)
    assert {"keep", "gone"} <= reading.names(), "nothing is forgotten meanwhile"
    plane.start_apiserver()
    plane.delete(gone)
    plane.apply(pod("new", "third"))
    reading.until(lambda _: {"keep", "new"} <= reading.names() and "gone" not in reading.names(), 60)
    reading.until(lambda _: reading.source.stale_seconds() == 0, 60)


def test_etcd_may_die_too_and_compaction_makes_a_new_list(plane: ControlPlane, reading: Reading) -> None:
    in_namespace(plane, "fourth")
    reading.until(lambda c: c.complete and "fourth" in c.namespaces)
    plane.kill("etcd")
    time.sleep(1)
    plane.start_etcd()
    plane.kill("kube-apiserver")
    plane.start_apiserver()
    for number in range(20):
        plane.apply(pod(f"p{number}", "fourth"))
    plane.compact()
    reading.until(lambda _: {f"p{n}" for n in range(20)} <= reading.names(), 60)


@pytest.mark.timeout(400)
def test_a_server_that_stands_still_is_found_out(plane: ControlPlane, reading: Reading) -> None:
    """Its kernel takes every byte and its connections stay; only that no bookmark comes tells."""
    in_namespace(plane, "fifth")
    reading.until(lambda c: c.complete and "fifth" in c.namespaces)
    plane.send("kube-apiserver", signal.SIGSTOP)
    try:
        reading.until(lambda _: "nothing new is known of" in reading.source.trouble(), 250)
        assert "fifth" in reading.cluster.namespaces
    finally:
        plane.send("kube-apiserver", signal.SIGCONT)
    in_namespace(plane, "sixth")
    reading.until(lambda c: "sixth" in c.namespaces, 60)
    reading.until(
        lambda _: reading.source.stale_seconds() == 0 and not reading.source.trouble(), 180
    )  # each kind after its own backoff
