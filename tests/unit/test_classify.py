"""Whose is a folder (L2), and what nobody knows (L3)."""

from __future__ import annotations

import pytest
from immutables import Map

from agent.model.classify import Classified, ClassifiedBy, classify, parse_log_folder
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.verdict import EndpointState

UID = PodUid("cc7a1de5-1bf8-4567-ae3a-697995d1d600")
STATIC = PodUid("0123456789abcdef0123456789abcdef")
NAMESPACES = Map({"etl": Namespace("etl", managed=True), "kube-system": Namespace("kube-system")})


def pod(namespace: str) -> Pod:
    claim = Claim(Identity("c", namespace, "default", "", "", Kind.OTHER), ())
    return Pod(uid=UID, namespace=namespace, name="p", claim=claim)


def snapshot(*pods: Pod) -> Cluster:
    return Cluster(namespaces=NAMESPACES, pods=Map({pod.uid: pod for pod in pods}))


def test_a_static_pod_is_unmanaged_whatever_the_snapshot_says() -> None:
    forged = Cluster(namespaces=NAMESPACES, pods=Map({STATIC: pod("etl")}))
    classified = classify(STATIC, forged, {STATIC: ("kube-system", "etcd-n1")}, complete=False)
    assert classified == Classified(EndpointState.UNMANAGED, ClassifiedBy.STATIC_HASH, "kube-system", "etcd-n1")


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("namespace", "state"), [("etl", EndpointState.MANAGED), ("kube-system", EndpointState.UNMANAGED)]
)
def test_a_pod_in_the_snapshot_goes_by_its_namespace(namespace: str, state: EndpointState, complete: bool) -> None:
    classified = classify(UID, snapshot(pod(namespace)), {UID: ("other", "x")}, complete=complete)
    assert (classified.state, classified.by, classified.pod) == (state, ClassifiedBy.SNAPSHOT, pod(namespace))


def test_the_log_folder_classifies_system_pods_without_an_api() -> None:
    classified = classify(UID, snapshot(), {UID: ("kube-system", "coredns-1")}, complete=True)
    assert classified == Classified(EndpointState.UNMANAGED, ClassifiedBy.LOG_FOLDER, "kube-system", "coredns-1")


@pytest.mark.parametrize("folders", [{}, {UID: ("etl", "p")}, {UID: ("made-a-moment-ago", "p")}])
def test_a_pod_that_nothing_knows_is_pending(folders: dict[PodUid, tuple[str, str]]) -> None:
    classified = classify(UID, snapshot(), folders, complete=True)
    assert (classified.state, classified.by) == (EndpointState.PENDING, ClassifiedBy.NOBODY)


def test_a_pod_whose_namespace_is_not_listed_yet_is_pending() -> None:
    assert classify(UID, snapshot(pod("new")), {}, complete=True).state is EndpointState.PENDING


def test_on_a_first_boot_unknown_pods_pass() -> None:
    classified = classify(UID, Cluster(), {}, complete=False)
    assert classified.state is EndpointState.UNMANAGED
    assert classified.unclassified


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        (f"etl_my-pod-0_{UID}", (UID, ("etl", "my-pod-0"))),
        (f"kube-system_etcd-n1_{STATIC}", (STATIC, ("kube-system", "etcd-n1"))),
        ("etl_my-pod-0", None),
        ("etl_p_not-a-uid", None),
        (f"a_b_c_{UID}", None),
        (f"_p_{UID}", None),
        ("", None),
    ],
)
def test_log_folders(folder: str, found: object) -> None:
    assert parse_log_folder(folder) == found


def test_a_folder_of_manifests_is_the_whole_truth() -> None:
    """`dagwall run --files` on a node with CoreDNS: what the folder does not hold is not managed (L2d)."""
    folders = {UID: ("kube-system-2", "coredns-1")}
    assert classify(UID, snapshot(), folders, complete=True).state is EndpointState.PENDING
    classified = classify(UID, snapshot(), folders, complete=True, whole_truth=True)
    assert classified == Classified(EndpointState.UNMANAGED, ClassifiedBy.LOG_FOLDER, "kube-system-2", "coredns-1")
    ours = classify(UID, snapshot(), {UID: ("etl", "p")}, complete=True, whole_truth=True)
    assert ours.state is EndpointState.PENDING, "managed, but nobody has said who it is"
