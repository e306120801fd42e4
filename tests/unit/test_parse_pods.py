"""Claims and pods, case by case: what decides, what is refused, what is frozen."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from agent.errors import InvalidObject
from agent.model.cluster import Escape, Pod
from agent.model.identity import Claim, Kind
from agent.parse.objects import parse_object

UID = "cc7a1de5-1bf8-4567-ae3a-697995d1d600"
HASH = "0123456789abcdef0123456789abcdef"
EXECUTOR = {"kubernetes_executor": "True"}
OPERATOR = {"kubernetes_pod_operator": "True"}
IDS = {"dag_id": "d", "task_id": "t"}
NO_RAW = {"capabilities": {"drop": ["ALL"]}}


def manifest(
    labels: dict[str, Any] | None = None,
    annotations: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "ns",
            "uid": UID,
            "labels": labels or {},
            "annotations": annotations or {},
            **metadata,
        },
        "spec": {"containers": [{"name": "base", "securityContext": NO_RAW}], **(spec or {})},
    }


def pod(*args: Any, first_claim: Claim | None = None, **kwargs: Any) -> Pod:
    parsed = parse_object(manifest(*args, **kwargs), first_claim=first_claim)
    assert isinstance(parsed, Pod)
    return parsed


def claim(labels: dict[str, Any] | None = None, annotations: dict[str, Any] | None = None) -> Claim:
    return pod(labels, annotations).claim


def refused(obj: object) -> str:
    with pytest.raises(InvalidObject) as caught:
        parse_object(obj)
    return str(caught.value)


@pytest.mark.parametrize(
    ("labels", "annotations", "kind"),
    [
        ({}, {}, Kind.OTHER),
        (IDS, {}, Kind.OTHER),
        (EXECUTOR, {}, Kind.KUBERNETES_EXECUTOR),
        ({}, IDS, Kind.KUBERNETES_EXECUTOR),
        ({"kubernetes_executor": "False"}, IDS, Kind.KUBERNETES_EXECUTOR),
        ({}, {"dag_id": "d"}, Kind.OTHER),
        (OPERATOR, {}, Kind.KUBERNETES_POD_OPERATOR),
        (OPERATOR | EXECUTOR, IDS, Kind.KUBERNETES_POD_OPERATOR),
        ({"spark_kubernetes_operator": "True"}, {}, Kind.SPARK_OPERATOR),
        ({"spark_kubernetes_operator": "True"} | EXECUTOR, IDS, Kind.SPARK_OPERATOR),
        ({"tier": "airflow", "component": "worker"}, {}, Kind.COMPONENT),
        ({"tier": "airflow", "component": "worker"} | EXECUTOR, IDS, Kind.KUBERNETES_EXECUTOR),
        ({"tier": "airflow"}, {}, Kind.OTHER),
    ],
)
def test_kind(labels: dict[str, str], annotations: dict[str, str], kind: Kind) -> None:
    assert claim(labels, annotations).identity.kind is kind


def test_executor_pod_without_annotations_is_ambiguous() -> None:
    identity = claim(EXECUTOR | IDS).identity
    assert (identity.dag_id, identity.task_id, identity.ambiguous) == ("d", "t", True)


def test_half_of_the_annotations_is_ambiguous_too() -> None:
    identity = claim(EXECUTOR | IDS, {"dag_id": "d"}).identity
    assert (identity.dag_id, identity.task_id, identity.ambiguous) == ("d", "t", True)


@pytest.mark.parametrize("text", ["x" * 251, "a b", "a/b", "a\nb", "", "a\u202eb"])
def test_an_annotation_that_is_no_airflow_id_does_not_count(text: str) -> None:
    told = claim(EXECUTOR | IDS, {"dag_id": text, "task_id": "t"})
    assert (told.identity.dag_id, told.identity.ambiguous) == ("d", True)
    assert "is no id that Airflow allows" in told.contradictions[0]


def test_collision_of_labels_does_not_reach_executor_pods() -> None:
    label = EXECUTOR | {"dag_id": "private_dag-c80656058", "task_id": "t"}
    one = claim(label, {"dag_id": "_private_dag", "task_id": "t"})
    other = claim(label, {"dag_id": "private_dag-c80656058", "task_id": "t"})
    assert one.identity != other.identity
    assert not one.contradictions
    assert not other.contradictions


def test_an_annotation_without_its_label_is_told() -> None:
    assert "has no label beside it" in claim(EXECUTOR, IDS).contradictions[0]


def test_facts_are_bounded() -> None:
    assert len(claim(EXECUTOR | IDS, IDS | {"run_id": "r" * 100_000}).run_id) == 250


def test_service_account_is_the_specs_only() -> None:
    assert pod().claim.identity.service_account == "default"
    assert pod(spec={"serviceAccountName": ""}).claim.identity.service_account == "default"
    assert pod(spec={"serviceAccount": "old"}).claim.identity.service_account == "old"
    assert (
        pod({"serviceAccountName": "x"}, spec={"serviceAccountName": "etl"}).claim.identity.service_account == "etl"
    )


def test_a_later_claim_does_not_count_and_is_told() -> None:
    first = pod(EXECUTOR | IDS, IDS)
    later = pod(EXECUTOR | IDS, IDS | {"dag_id": "other"}, first_claim=first.claim)
    assert later.claim.identity == first.claim.identity
    assert later.claim.contradictions == ("dag_id would have changed from 'd' to 'other' after first sight",)
    again = pod(EXECUTOR | IDS, IDS | {"dag_id": "other"}, first_claim=later.claim)
    assert again.claim == later.claim


def test_labels_of_the_first_sight_are_kept_and_live_ones_beside_them() -> None:
    first = pod({"app": "a"})
    later = pod({"app": "b"}, first_claim=first.claim)
    assert later.claim == first.claim
    assert dict(later.labels) == {"app": "b"}


def test_relabelling_for_ever_takes_no_memory() -> None:
    now = pod(EXECUTOR | IDS).claim
    for i in range(100):
        now = pod(EXECUTOR | IDS | {"dag_id": f"d{i}"}, first_claim=now).claim
    assert len(now.contradictions) == 16


@pytest.mark.parametrize("uid", [None, "", "x", UID + "0", HASH, "../../etc", 5])
def test_a_pod_needs_its_uid(uid: object) -> None:
    obj = manifest()
    obj["metadata"]["uid"] = uid
    assert refused(obj).startswith("Pod/ns/p: metadata.uid: ")


def test_uid_is_lower_case() -> None:
    assert pod(uid=UID.upper()).uid == UID


def test_static_pods_have_a_second_name() -> None:
    mirror = {"kubernetes.io/config.hash": HASH, "kubernetes.io/config.source": "file"}
    assert pod(annotations=mirror).cgroup_uids == (UID, HASH)
    assert pod(annotations=mirror | {"kubernetes.io/config.source": "api"}).cgroup_uids == (UID,)
    assert pod(annotations=mirror | {"kubernetes.io/config.hash": UID}).cgroup_uids == (UID,)


@pytest.mark.parametrize(
    ("spec", "escapes"),
    [
        ({}, ()),
        ({"containers": [{}]}, ("NET_RAW",)),
        ({"containers": [{"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}]}, ()),
        (
            {"containers": [{"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["net_raw"]}}}]},
            ("NET_RAW",),
        ),
        ({"containers": [{"securityContext": {**NO_RAW, "privileged": True}}]}, ("privileged",)),
        ({"initContainers": [{"securityContext": {**NO_RAW, "privileged": True}}]}, ("privileged",)),
        ({"ephemeralContainers": [{"securityContext": {**NO_RAW, "privileged": True}}]}, ("privileged",)),
        ({"hostPID": True}, ("hostPID",)),
        (
            {
                "hostPID": True,
                "containers": [{"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]}}}],
            },
            ("hostPID with SYS_PTRACE",),
        ),
        (
            {"containers": [{"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["CAP_BPF"]}}}]},
            ("BPF",),
        ),
        ({"volumes": [{"hostPath": {"path": "/sys/fs//cgroup/"}}]}, ("hostPath /sys/fs/cgroup",)),
        ({"volumes": [{"hostPath": {"path": "/"}}]}, ("hostPath /",)),
        ({"volumes": [{"hostPath": {"path": "/data/../run"}}]}, ("hostPath /data/../run",)),
        ({"volumes": [{"hostPath": {"path": "/data/running"}}, {"emptyDir": {}}]}, ()),
        ({"volumes": [{"hostPath": {"path": "/etc/localtime"}}, {"hostPath": {"path": "/var/lib/mine"}}]}, ()),
    ],
)
def test_escapes(spec: dict[str, Any], escapes: tuple[str, ...]) -> None:
    assert tuple(map(str, pod(spec=spec).escapes)) == escapes


@pytest.mark.parametrize(
    "path",
    [
        "/var",
        "/etc",
        "/var/lib",
        "/usr",
        "/root/.ssh",
        "/opt",
        "/opt/cni/bin",
        "/etc/cni/net.d",
        "/var/lib/dagwall",
        "/var/lib/dagwall/state.db",
        "/var/log",
        "/var/log/pods",
        "/var/log/pods/kube-system_x_1",
        "/usr/bin",
        "/etc/crontab",
        "/lib",
    ],
)
def test_what_holds_a_path_that_lets_a_pod_out_or_is_in_one(path: str) -> None:
    """L8: parents too, and what dagwall itself believes."""
    assert pod(spec={"volumes": [{"hostPath": {"path": path}}]}).escapes == (Escape("hostPath", path),)


def test_all_capabilities_are_all_escapes() -> None:
    spec = {"containers": [{"securityContext": {"capabilities": {"add": ["ALL"]}}}]}
    assert {"SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_MODULE", "BPF"} <= {
        escape.way for escape in pod(spec=spec).escapes
    }


def test_status_ports_and_node() -> None:
    obj = manifest(spec={"nodeName": "n1", "containers": [{"ports": [{"containerPort": 1}, _port()]}]})
    obj["status"] = {"phase": "Failed", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}, {"ip": "fd00::1"}]}
    parsed = parse_object(obj)
    assert isinstance(parsed, Pod)
    assert parsed.addresses == (ip_address("10.1.2.3"), ip_address("fd00::1"))
    assert [(p.name, p.protocol, p.port) for p in parsed.ports] == [("dns", 17, 53)]
    assert parsed.finished
    assert parsed.node == "n1"


def _port() -> dict[str, object]:
    return {"containerPort": 53, "protocol": "UDP", "name": "dns"}


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (manifest({"a": True}), r"Pod/ns/p: metadata\.labels\.a: must be a string"),
        (manifest({"a": "x" * 1_000_000}), r"metadata\.labels\.a: has more than 63 characters"),
        (manifest({"k" * 1_000_000: "x"}), r"metadata\.labels: key .* has more than"),
        (manifest(annotations={"a": "x" * 1_000_000}), r"metadata\.annotations: together they may have 262144 bytes"),
        (manifest(name="x" * 254), r"metadata\.name: must have 1 to 253 characters, not 254"),
        (manifest(name=""), r"metadata\.name: must have 1 to 253"),
        (manifest(namespace="a/b"), r"metadata\.namespace: 'a/b' is no name"),
        (manifest(spec={"hostNetwork": "yes"}), r"spec\.hostNetwork: must be true or false"),
        (manifest(spec={"containers": [{"ports": [{"name": "a", "containerPort": 0}]}]}), r"containerPort: must be"),
        (manifest() | {"status": {"podIP": "10.0.0.256"}}, r"status\.podIP: '10.0.0.256' is no IP address"),
        (manifest() | {"status": {"podIP": "fe80::1%eth0"}}, r"zone"),
        (manifest() | {"spec": [1]}, r"spec: must be an object"),
    ],
)
def test_refused(obj: dict[str, Any], message: str) -> None:
    assert re.search(message, text := refused(obj))
    assert len(text) < 1000


def test_claims_of_unequal_pods_are_equal_values() -> None:
    assert replace(pod(name="a"), name="b") == pod(name="b")
