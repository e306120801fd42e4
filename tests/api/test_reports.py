"""What the agent writes to a real API server: Events on pods, statuses of policies, Leases; and by which rights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.app.agent import Agent, build
from agent.app.serve import Serving
from agent.config import Config
from agent.errors import ApiError
from agent.model.cluster import Settings
from agent.model.policy import PolicyRef
from agent.model.verdict import EndpointState
from agent.outputs.kube.leases import Leases
from agent.outputs.kube.node_report import NodeReport, digest
from agent.outputs.kube.own_node import OwnNode
from agent.parse.cluster_objects import STARTUP_TAINT
from agent.sources.kube_api import KubeApi
from lab.node import PROGRAM_CACHE, Pod, cgroup_mount
from tests.api.control_plane import ROOT, ControlPlane
from tests.api.test_agent_on_api import REFUSED, V4, Cluster, on_a_node, policy, running
from tests.api.test_definitions import served  # noqa: F401
from tests.api.test_manifests import documents
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp


def rights() -> list[dict[str, Any]]:
    """daemonset.yaml but the agents, and the right for the taint; its admission policy is unknown to this server."""
    taint = [obj for obj in documents(ROOT / "deploy" / "startup-taint.yaml") if "rbac" in obj["apiVersion"]]
    return [obj for obj in documents(ROOT / "daemonset.yaml") if obj["kind"] != "DaemonSet"] + taint


class Reporting(Cluster):
    """The agent as `dagwall run` wires it, by the rights of the manifests and no others."""

    @contextmanager
    def agent(self, settings: Settings | None = None) -> Iterator[Agent]:
        self.plane.apply(*rights())
        config = Config(
            node="n1", kubeconfig=self.plane.token_kubeconfig("dagwall-system", "dagwall-agent"),
            pins=self.node.bpffs / "dagwall", socket=self.folder / "s.sock", metrics="",
            cgroup_roots=frozenset({f"/{self.node.kubepods.relative_to(cgroup_mount())}"}),
            state=self.folder / "state", log_folders=self.folder / "logs", drain_seconds=0.5,
            program_cache=PROGRAM_CACHE,
        )  # fmt: skip
        self.serving = serving = Serving(config)
        serving.start()
        try:
            with running(build(config, settings or Settings(), serving.outputs)) as agent:
                serving.latest.read_with(agent.totals.read)
                yield agent
        finally:
            serving.stop()

    def is_managed(self, pod: Pod) -> bool:
        """A first SYN that waits for the pod to be known is one more denial than the application sees."""
        view = self.serving.latest.view()
        rows = view.state.endpoints.values() if view else ()
        return any(row.uid == pod.uid and row.state is EndpointState.MANAGED for row in rows)

    def events(self) -> list[dict[str, Any]]:
        found = self.plane.request("GET", f"/api/v1/namespaces/{self.name}/events")["items"]
        return [each for each in found if each["source"]["component"] == "dagwall"]

    def status(self, name: str = "etl") -> dict[str, Any]:
        path = f"/apis/dagwall.io/v1alpha1/namespaces/{self.name}/tasknetworkpolicies/{name}"
        return dict(self.plane.request("GET", path).get("status") or {})

    def condition(self, of: str, name: str = "etl") -> dict[str, Any]:
        found = [c for c in self.status(name).get("conditions") or [] if c["type"] == of]
        return found[0] if found else {}

    def lease(self, name: str) -> dict[str, Any]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/dagwall-system/leases/{name}"
        return dict(self.plane.request("GET", path))


@pytest.fixture
def cluster(
    plane: ControlPlane,
    served: ControlPlane,  # noqa: F811
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Reporting]:
    with on_a_node(Reporting, plane, tmp_path, f"r{abs(hash(request.node.name)) % 10**8}") as cluster:
        yield cluster


def test_equal_denials_are_one_event_on_the_pod(cluster: Reporting) -> None:
    cluster.node.add_addresses(V4)
    cluster.plane.apply(policy(cluster.name, 8301))
    with cluster.agent():
        pod = cluster.admit("3.3.2-ke-normal", "etl-1")
        other = cluster.admit("3.3.2-ke-normal", "etl-2")
        assert cluster.follows(lambda: cluster.is_managed(pod) and cluster.is_managed(other))
        assert cluster.follows(lambda: pod.run(tcp, V4, 8302) in REFUSED)
        assert eventually(lambda: len(cluster.events()) == 1, 10)
        for _ in range(4):
            assert pod.run(tcp, V4, 8302) in REFUSED
        assert eventually(lambda: cluster.events()[0]["count"] == 5, 20), [e["count"] for e in cluster.events()]
        assert other.run(tcp, V4, 8302) in REFUSED
        assert eventually(lambda: len(cluster.events()) == 2, 10)
    by_pod = {each["involvedObject"]["name"]: each for each in cluster.events()}
    seen = by_pod["etl-1"]
    assert (seen["count"], by_pod["etl-2"]["count"]) == (5, 1)
    assert seen["involvedObject"]["uid"] == pod.uid
    assert (seen["type"], seen["reason"]) == ("Warning", "NetworkDenied")
    assert seen["message"].startswith(
        f"denied: TCP to {V4}:8302 ({V4}/32), no rule allows it; nearest: etl/only lacks"
    )


def test_audit_says_would_be(cluster: Reporting) -> None:
    cluster.node.serve(V4, 8303)
    audited = policy(cluster.name, 8301)
    audited["spec"]["posture"] = "audit"
    cluster.plane.apply(audited)
    with cluster.agent():
        pod = cluster.admit("3.3.2-ke-normal", "etl-1")
        assert pod.run(tcp, V4, 8303) == "ok"
        assert eventually(lambda: len(cluster.events()) == 1, 10)
    (seen,) = cluster.events()
    assert (seen["type"], seen["reason"]) == ("Normal", "NetworkWouldBeDenied")


def test_a_status_says_what_is_in_force_and_what_is_wrong(cluster: Reporting) -> None:
    good = policy(cluster.name, 8304)
    cluster.plane.apply(good)
    cluster.node.serve(V4, 8304)
    with cluster.agent():
        assert eventually(lambda: cluster.condition("Programmed").get("status") == "True", 30), cluster.status()
        assert cluster.condition("Accepted")["status"] == "True"
        assert (cluster.status()["observedGeneration"], cluster.status()["nodes"]) == (1, 1)
        assert cluster.lease("dagwall-status")["spec"]["holderIdentity"] == "n1"
        pod = cluster.admit("3.3.2-ke-normal", "etl-1")
        assert cluster.follows(lambda: pod.run(tcp, V4, 8305) in REFUSED)

        broken = policy(cluster.name, 8304)  # no structural schema can refuse these
        broken["spec"]["egress"][0]["to"] = [{"cidr": f"{V4}/24"}]
        cluster.plane.apply(broken)
        assert eventually(lambda: cluster.condition("Accepted").get("status") == "False", 15), cluster.status()
        accepted, programmed = cluster.condition("Accepted"), cluster.condition("Programmed")
        assert "spec.egress[0].to[0].cidr" in accepted["message"]
        assert accepted["message"].endswith("generation 1 stays in force")
        assert (accepted["observedGeneration"], programmed["observedGeneration"]) == (2, 1)
        assert (accepted["reason"], programmed["status"]) == ("Invalid", "True")
        assert pod.run(tcp, V4, 8304) == "ok", "P17: the last valid generation stays in force"
        assert pod.run(tcp, V4, 8305) in REFUSED

        cluster.plane.apply(policy(cluster.name, 8305))
        assert eventually(lambda: cluster.status().get("observedGeneration") == 3, 15), cluster.status()
        assert eventually(lambda: cluster.condition("Programmed")["observedGeneration"] == 3, 15), cluster.status()
        assert cluster.condition("Accepted")["status"] == "True"
    assert cluster.lease("dagwall-status")["spec"].get("holderIdentity", "") == "", "another node need not wait"


def too_big(namespace: str) -> dict[str, Any]:
    """300,000 rows: a CIDR at 999 ports, and 300 networks in it (P17)."""
    many = {"to": [{"cidr": "20.0.0.0/9"}], "ports": [{"port": 3 + 2 * i} for i in range(999)]}
    inner = [{"to": [{"cidr": f"20.{i >> 8}.{i & 255}.0/24"}]} for i in range(300)]
    return policy(namespace, 8305) | {"spec": {"subject": {}, "egress": [many, *inner]}}


def test_a_policy_that_is_too_big_says_so_in_its_status(cluster: Reporting) -> None:
    """By name, and its generation in force stays (P17)."""
    cluster.node.serve(V4, 8305)
    cluster.plane.apply(policy(cluster.name, 8305))
    with cluster.agent():
        pod = cluster.admit("3.3.2-ke-normal", "etl-1")
        assert cluster.follows(lambda: pod.run(tcp, V4, 8305) == "ok")
        cluster.plane.apply(too_big(cluster.name))
        assert eventually(lambda: cluster.condition("Programmed").get("reason") == "Refused", 30), cluster.status()
        said = cluster.condition("Programmed")["message"]
        assert "n1: is too big: it needs" in said
        assert "the version before stays in force" in said
        assert cluster.condition("Accepted")["status"] == "True"
        assert pod.run(tcp, V4, 8305) == "ok"
        cluster.plane.apply(policy(cluster.name, 8305))
        assert eventually(lambda: cluster.condition("Programmed").get("status") == "True", 30), cluster.status()


def test_an_agent_that_starts_again_keeps_what_was_valid(cluster: Reporting) -> None:
    """P17: a mistyped policy and a restart must not open what was closed."""
    cluster.node.serve(V4, 8310)
    cluster.node.serve(V4, 8311)
    cluster.plane.apply(policy(cluster.name, 8310))
    with cluster.agent():
        pod = cluster.admit("3.3.2-ke-normal", "etl-1")
        assert cluster.follows(lambda: pod.run(tcp, V4, 8311) in REFUSED)
    broken = policy(cluster.name, 8311)
    broken["spec"]["egress"][0]["to"] = [{"cidr": f"{V4}/24"}]
    cluster.plane.apply(broken)
    with cluster.agent():
        assert eventually(lambda: cluster.condition("Accepted").get("status") == "False", 30)
        assert cluster.condition("Accepted")["message"].endswith("generation 1 stays in force")
        assert pod.run(tcp, V4, 8311) in REFUSED
        assert pod.run(tcp, V4, 8310) == "ok"
        other = cluster.admit("3.3.2-ke-normal", "etl-2")
        assert cluster.follows(lambda: other.run(tcp, V4, 8311) in REFUSED), "new pods too"


def test_never_valid(cluster: Reporting) -> None:
    broken = policy(cluster.name, 8306)
    broken["spec"]["egress"][0]["ports"] = [{"port": 90, "endPort": 80}]
    cluster.plane.apply(broken)
    with cluster.agent():
        assert eventually(lambda: cluster.condition("Accepted").get("status") == "False", 30)
        assert "spec.egress[0].ports[0].endPort" in cluster.condition("Accepted")["message"]
        assert cluster.condition("Accepted")["message"].endswith("no generation of it is in force")
        assert cluster.condition("Programmed")["reason"] == "NeverValid"
        assert (cluster.status()["nodes"], cluster.status()["endpoints"]) == (0, 0)


def test_statuses_are_written_when_they_change_and_not_else(cluster: Reporting) -> None:
    cluster.plane.apply(policy(cluster.name, 8307))
    with cluster.agent():
        assert eventually(lambda: cluster.condition("Programmed").get("status") == "True", 30)
        path = f"/apis/dagwall.io/v1alpha1/namespaces/{cluster.name}/tasknetworkpolicies/etl"
        version = cluster.plane.request("GET", path)["metadata"]["resourceVersion"]
        time.sleep(7)
        assert cluster.plane.request("GET", path)["metadata"]["resourceVersion"] == version
    with cluster.agent():
        time.sleep(6)
        found = cluster.plane.request("GET", path)
        assert found["metadata"]["resourceVersion"] == version, "a restart changes nothing that people see"


def node(*taints: str) -> dict[str, Any]:
    spec = {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": spec}


def binding(namespace: str, account: str, dag: str = "*") -> dict[str, Any]:
    return {
        "apiVersion": "dagwall.io/v1alpha1", "kind": "TaskIdentityBinding", "metadata": {"name": namespace},
        "spec": {"namespace": namespace, "serviceAccounts": [account], "dagIds": [dag], "posture": "enforce"},
    }  # fmt: skip


def granted() -> set[tuple[str, str, str]]:
    """(group, resource, verb) that the manifests give the agent."""
    roles = [obj for obj in rights() if obj["kind"] in ("Role", "ClusterRole")]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_every_right_is_used_and_none_is_missing(cluster: Reporting) -> None:
    """By the API server's audit log: all that the agent did in this session, against its roles."""
    cluster.node.add_addresses(V4)
    mine = policy(cluster.name, 8308)
    other = {**mine, "kind": "ClusterTaskNetworkPolicy", "metadata": {"name": cluster.name}}
    bound = binding(cluster.name, "somebody-else")
    cluster.plane.apply(mine, other, bound, node(STARTUP_TAINT))
    refused = cluster.plane.used(refused=True)  # by tests that try more than the agent does
    try:
        with cluster.agent(Settings(network_policy=True)):
            pod = cluster.admit("3.3.2-ke-normal", "etl-1")
            assert cluster.follows(lambda: pod.run(tcp, V4, 8309) in REFUSED)
            assert eventually(lambda: len(cluster.events()) == 1, 10)
            assert pod.run(tcp, V4, 8309) in REFUSED
            done = eventually(lambda: cluster.plane.used() == granted(), 45)
            assert done, (cluster.plane.used() ^ granted(), cluster.serving.latest.view())
        assert cluster.plane.used(refused=True) == refused
    finally:
        cluster.plane.delete(other)
        cluster.plane.delete(bound)
        cluster.plane.delete(node())


def test_a_node_loses_the_startup_taint_when_everything_is_enforced(cluster: Reporting) -> None:
    """L3: no task starts on a node whose agent has never been up."""
    cluster.plane.delete(node())
    cluster.plane.apply(node(STARTUP_TAINT, "example.com/other"))
    cluster.plane.apply(policy(cluster.name, 8320))

    def taints() -> list[str]:
        return [t["key"] for t in cluster.plane.request("GET", "/api/v1/nodes/n1")["spec"].get("taints") or ()]

    try:
        outside = cluster.node.root / f"kubepods-besteffort-pod{'0' * 32}.slice:cri-containerd:{'a' * 64}"
        outside.mkdir()
        with cluster.agent():
            assert eventually(lambda: cluster.condition("Accepted").get("status") == "True", 30)
            time.sleep(3)
            assert STARTUP_TAINT in taints(), "not before it is ready"
            outside.rmdir()
            assert eventually(lambda: STARTUP_TAINT not in taints(), 30), taints()
        assert "example.com/other" in taints()
        uid = cluster.plane.request("GET", "/api/v1/nodes/n1")["metadata"]["uid"]
        (owner,) = cluster.lease("dagwall-node-n1")["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Node", uid), "the Lease goes with the node"
    finally:
        cluster.plane.delete(node())


def test_a_contradicting_claim_is_one_event_and_counts_in_the_binding_s_status(cluster: Reporting) -> None:
    """I5, for a pod of the service account that may not claim this DAG."""
    bound = binding(cluster.name, "default", "some_other_dag")
    path = f"/apis/dagwall.io/v1alpha1/taskidentitybindings/{cluster.name}"
    cluster.plane.apply(policy(cluster.name, 8321), bound)
    try:
        with cluster.agent():
            pod = cluster.admit("3.3.2-ke-normal", "etl-1")
            assert eventually(lambda: len(cluster.events()) == 1, 15)
            (seen,) = cluster.events()
            assert (seen["reason"], seen["involvedObject"]["uid"]) == ("IdentityQuarantined", pod.uid)
            assert f"TaskIdentityBinding/{cluster.name}" in seen["message"]
            said = lambda: dict(cluster.plane.request("GET", path).get("status") or {})  # noqa: E731
            assert eventually(lambda: said().get("nodes") == 1, 30), said()
            assert {c["type"]: c["status"] for c in said()["conditions"]} == {
                "Accepted": "True",
                "Programmed": "True",
            }
    finally:
        cluster.plane.delete(bound)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/apis/dagwall.io/v1alpha1/namespaces/default/tasknetworkpolicies/x"),
        ("PATCH", "/api/v1/namespaces/default/pods/x"),
        ("PUT", "/api/v1/nodes/n1"),
        ("PATCH", "/api/v1/nodes/n1/status"),
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler"),
    ],
)  # fmt: skip
def test_it_may_write_nothing_else(cluster: Reporting, method: str, path: str) -> None:
    cluster.plane.apply(*rights())
    api = KubeApi.connect(str(cluster.plane.token_kubeconfig("dagwall-system", "dagwall-agent")))
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    with pytest.raises(ApiError, match="403"):
        api.send(method, path, {"metadata": {"labels": {"a": "b"}}}, kind=kind)


def test_two_nodes_add_up_and_one_of_them_writes(cluster: Reporting) -> None:
    """By Leases on the server: this node's agent, and another node's reports beside it."""
    cluster.plane.apply(policy(cluster.name, 8330))
    name = digest(PolicyRef(cluster.name, "TaskNetworkPolicy", "etl"))
    with cluster.agent():
        api = KubeApi.connect(str(cluster.plane.token_kubeconfig("dagwall-system", "dagwall-agent")))
        other = Leases(api, OwnNode(api, "n2"), "dagwall-system")
        try:
            other.report(NodeReport({name: (1, 3)}, "no pods' root"), 0.0, time.time())
            assert eventually(lambda: "n2: no pods' root" in cluster.condition("Programmed").get("message", ""), 45)
            assert cluster.condition("Programmed")["status"] == "False"
            other.report(NodeReport({name: (1, 3)}), 100.0, time.time())
            assert eventually(lambda: cluster.condition("Programmed")["status"] == "True", 45)
            assert (cluster.status()["nodes"], cluster.status()["endpoints"]) == (2, 3)
            other.elect(0.0, time.time())
            assert not other.election.holds(0.0), "n1 has it"
        finally:
            path = "/apis/coordination.k8s.io/v1/namespaces/dagwall-system/leases/dagwall-node-n2"
            cluster.plane.request("DELETE", path)
    other.elect(20.0, time.time())
    assert other.election.holds(20.0), "n1 has ended and given it back"
    other.resign()
