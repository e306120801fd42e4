"""The admission policies of deploy/, evaluated by kube-apiserver's own packages (scripts/api-judge)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.control_plane import ROOT
from tests.api.crd_server import judged
from tests.api.test_manifests import documents

Obj = dict[str, Any]
SCHEDULER = "system:serviceaccount:airflow:airflow-scheduler"
AGENT = "system:serviceaccount:dagwall-system:dagwall-agent"
ACCOUNTS, CREATORS = "dagwall.io/task-service-accounts", "dagwall.io/task-creators"
SCHEDULERS = "dagwall.io/task-schedulers"


def policy(file: str) -> Obj:
    (found,) = (obj for obj in documents(ROOT / "deploy" / file) if obj["kind"] == "ValidatingAdmissionPolicy")
    return found


def refusals(**asked: Any) -> list[str]:
    (answer,) = judged(asked)
    return list(answer["denied"])


def pod(
    account: str = "airflow-worker", namespace: str = "airflow", container: Obj | None = None, **spec: Any
) -> Obj:
    containers = [{"name": "base", "image": "i", **(container or {})}]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace},
        "spec": {"serviceAccountName": account, "containers": containers, **spec},
    }  # fmt: skip


def creates(made: Obj, by: str = SCHEDULER, old: Obj | None = None, **annotations: str) -> list[str]:
    where = {"metadata": {"name": made["metadata"]["namespace"], "annotations": annotations}}
    return refusals(
        policy=policy("admission-policy.yaml"), user=by, operation="UPDATE" if old else "CREATE", resource="pods",
        object=made, oldObject=old, namespace=where if annotations else {"metadata": {"name": "airflow"}},
    )  # fmt: skip


def account(name: str, namespace: str = "airflow") -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def capable(*names: str) -> Obj:
    return {"securityContext": {"capabilities": {"add": list(names)}}}


ALLOWED: dict[str, tuple[Obj, str, dict[str, str]]] = {
    "what the chart does": (pod(), SCHEDULER, {}),
    "by a worker": (pod(), account("airflow-worker"), {}),
    "by a triggerer": (pod(), account("airflow-triggerer"), {}),
    "a release whose name has the suffix": (pod("etl-scheduler-worker"), account("etl-scheduler-scheduler"), {}),
    "an account that is named": (pod("finance"), SCHEDULER, {ACCOUNTS: "etl,finance"}),
    "with blanks": (pod("finance"), SCHEDULER, {ACCOUNTS: " etl , finance "}),
    "the default account, named": (pod("default"), SCHEDULER, {ACCOUNTS: "airflow-worker, default"}),
    "another namespace that names the creator": (
        pod("etl", "tasks"), SCHEDULER, {CREATORS: "x:y, airflow:airflow-scheduler", ACCOUNTS: "etl"},
    ),
    "a creator of another name, with its own account": (
        pod("launcher", "tasks"), account("launcher", "other"), {CREATORS: "other:launcher"},
    ),
    "who is not Airflow": (pod("anything", hostNetwork=True), account("deployer"), {}),
    "a person": (pod("anything", hostPID=True, nodeName="n1"), "alice", {}),
    "a controller": (pod("x", hostNetwork=True), account("daemon-set-controller", "kube-system"), {}),
    "the default scheduler by name": (pod(schedulerName="default-scheduler"), SCHEDULER, {}),
    "a scheduler that is named": (pod(schedulerName="volcano"), SCHEDULER, {SCHEDULERS: "x, volcano"}),
    "an ordinary toleration": (pod(tolerations=[{"key": "spot", "operator": "Exists"}]), SCHEDULER, {}),
    "harmless capabilities": (pod(container=capable("NET_BIND_SERVICE", "CAP_CHOWN")), SCHEDULER, {}),
    "an empty directory": (pod(volumes=[{"name": "v", "emptyDir": {}}]), SCHEDULER, {}),
}  # fmt: skip
LAUNCHER = (account("launcher", "other"), {CREATORS: "other:launcher"})
REFUSED: dict[str, tuple[Obj, str, dict[str, str], str]] = {
    "another account": (pod("finance"), SCHEDULER, {}, "service account finance, only airflow-worker"),
    "the default account": (pod("default"), SCHEDULER, {}, "service account default"),
    "no account": (pod(""), SCHEDULER, {}, "service account default"),
    "an account that is not named": (pod("x"), SCHEDULER, {ACCOUNTS: "etl, finance"}, "only etl, finance"),
    "a release with the suffix, wrong account": (
        pod("etl-worker-worker"), account("etl-scheduler-scheduler"), {}, "only etl-scheduler-worker",
    ),
    "another namespace": (pod(namespace="kube-system"), SCHEDULER, {}, "may not be in namespace kube-system"),
    "a namespace that names others": (
        pod(namespace="tasks"), SCHEDULER, {CREATORS: "x:y"}, "may not be in namespace tasks",
    ),
    "hostNetwork": (pod(hostNetwork=True), SCHEDULER, {}, "hostNetwork"),
    "hostPID": (pod(hostPID=True), SCHEDULER, {}, "hostPID"),
    "hostIPC": (pod(hostIPC=True), SCHEDULER, {}, "hostIPC"),
    "hostPath": (pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), SCHEDULER, {}, "hostPath"),
    "privileged": (pod(container={"securityContext": {"privileged": True}}), SCHEDULER, {}, "privileged"),
    "a privileged init container": (
        pod(initContainers=[{"name": "i", "securityContext": {"privileged": True}}]), SCHEDULER, {}, "privileged",
    ),
    "a privileged ephemeral container": (
        pod(ephemeralContainers=[{"name": "e", "securityContext": {"privileged": True}}]), SCHEDULER, {},
        "privileged",
    ),
    "a capability": (pod(container=capable("SYS_ADMIN")), SCHEDULER, {}, "capabilities"),
    "a capability in other words": (pod(container=capable("cap_net_raw")), SCHEDULER, {}, "capabilities"),
    "all taints": (pod(tolerations=[{"operator": "Exists"}]), SCHEDULER, {}, "tolerate"),
    "our taint": (pod(tolerations=[{"key": "dagwall.io/agent-not-ready"}]), SCHEDULER, {}, "tolerate"),
    "a node": (pod(nodeName="n1"), SCHEDULER, {}, "name their node"),
    "a scheduler": (pod(schedulerName="mine"), SCHEDULER, {}, "scheduler"),
    "by a named creator: privileged": (
        pod("launcher", "tasks", {"securityContext": {"privileged": True}}), *LAUNCHER, "privileged",
    ),
    "by a named creator: another account": (pod("admin", "tasks"), *LAUNCHER, "service account admin, only launcher"),
    "by a named creator: hostNetwork": (pod("launcher", "tasks", hostNetwork=True), *LAUNCHER, "hostNetwork"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "by", "annotations"), ALLOWED.values(), ids=ALLOWED)
def test_allowed(made: Obj, by: str, annotations: dict[str, str]) -> None:
    assert creates(made, by, **annotations) == []


@pytest.mark.parametrize(("made", "by", "annotations", "why"), REFUSED.values(), ids=REFUSED)
def test_refused(made: Obj, by: str, annotations: dict[str, str], why: str) -> None:
    (said,) = creates(made, by, **annotations)
    assert why in said


def test_a_pod_that_has_its_node_may_be_changed() -> None:
    bound = pod(nodeName="n1")
    assert creates(bound, SCHEDULER, old=bound) == []


def node(*taints: str, labels: Obj | None = None, name: str = "n1", **spec: Any) -> Obj:
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints], **spec},
    }  # fmt: skip


OURS = "dagwall.io/agent-not-ready"
NODES: dict[str, tuple[Obj, Obj | None, str, str]] = {
    "takes its taint off": (node("other"), node("other", OURS), AGENT, ""),
    "somebody else": (node(OURS), node(), "alice", ""),
    "puts it on": (node(OURS), node(), AGENT, "only take the taint"),
    "takes another off": (node(), node("other"), AGENT, "only take the taint"),
    "another node": (node(name="n2"), node(OURS, name="n2"), AGENT, "may not change node n2"),
    "a label": (node(labels={"a": "b"}), node(), AGENT, "metadata"),
    "cordons": (node(unschedulable=True), node(), AGENT, "spec"),
    "makes a node": (node(), None, AGENT, "may only patch nodes"),
}


@pytest.mark.parametrize(("made", "old", "by", "why"), NODES.values(), ids=NODES)
def test_the_agent_s_own_node(made: Obj, old: Obj | None, by: str, why: str) -> None:
    said = refusals(
        policy=policy("startup-taint.yaml"), user=by, extra={"authentication.kubernetes.io/node-name": ["n1"]},
        operation="UPDATE" if old else "CREATE", resource="nodes", object=made, oldObject=old,
    )  # fmt: skip
    assert (why in said[0]) if why else said == []
