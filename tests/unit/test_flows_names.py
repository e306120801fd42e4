"""What addresses are called."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from immutables import Map

from agent.flows.names import PeerNames, pod_name
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster, EndpointSlice, Node, Pod, Service, Settings
from agent.model.flow import PeerKind, Place
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import CidrPeer, Policy, PolicyRef, Rule, ServicePeer, Subject
from agent.model.verdict import Direction


def pod(uid: str, address: str, dag: str = "", kind: Kind = Kind.OTHER, **fields: object) -> Pod:
    claim = Claim(Identity("c", "airflow", "etl", dag, "load" if dag else "", kind), (("component", "scheduler"),))
    return Pod(PodUid(uid), "airflow", uid, claim, addresses=(ip_address(address),), **fields)  # type: ignore[arg-type]


def policy(*cidrs: str) -> Policy:
    peers = tuple(CidrPeer(ip_network(cidr)) for cidr in cidrs)
    return Policy(
        PolicyRef("airflow", "TaskNetworkPolicy", "p"), Subject(), egress=(Rule("r", Direction.EGRESS, peers, None),)
    )


POLICY = policy("0.0.0.0/0", "203.0.113.0/24", "203.0.113.128/25", "2001:db8::/32")
CLUSTER = Cluster(
    pods=Map(
        {
            PodUid("task"): pod("task", "10.0.0.1", "finance", Kind.KUBERNETES_EXECUTOR),
            PodUid("scheduler"): pod("scheduler", "10.0.0.2", kind=Kind.COMPONENT),
            PodUid("plain"): pod("plain", "10.0.0.3"),
            PodUid("done"): pod("done", "10.0.0.4", finished=True),
            PodUid("host"): pod("host", "192.168.0.1", host_network=True),
        }
    ),
    services=Map({("db", "pg"): Service("db", "pg", (ip_address("10.96.0.5"),))}),
    slices=Map({("db", "pg-x"): EndpointSlice("db", "pg-x", "pg", (ip_address("10.0.0.9"),))}),
    nodes=Map({"n1": Node("n1", (ip_address("192.168.0.1"),))}),
    policies=Map({POLICY.ref: POLICY}),
    settings=Settings(
        pod_ranges=(ip_network("10.0.0.0/16"),), service_ranges=(ip_network("10.96.0.0/12"),),
        metadata=(ip_address("169.254.169.254"),), host_addresses=(ip_address("192.168.0.7"),),
    ),
)  # fmt: skip


def names(cluster: Cluster = CLUSTER) -> PeerNames:
    found = PeerNames()
    found.update(cluster, EVERYTHING)
    return found


@pytest.mark.parametrize(
    ("address", "kind", "name"),
    [
        ("127.0.0.1", PeerKind.ENTITY, "loopback"),
        ("::1", PeerKind.ENTITY, "loopback"),
        ("169.254.169.254", PeerKind.ENTITY, "metadata"),
        ("64:ff9b::a9fe:a9fe", PeerKind.ENTITY, "metadata"),
        ("2002:a9fe:a9fe:1::2", PeerKind.ENTITY, "metadata"),
        ("10.96.0.5", PeerKind.SERVICE, "db/pg"),
        ("10.0.0.9", PeerKind.SERVICE, "db/pg"),
        ("10.0.0.1", PeerKind.POD, "airflow/finance/load"),
        ("10.0.0.2", PeerKind.POD, "airflow/airflow-scheduler"),
        ("10.0.0.3", PeerKind.POD, "airflow/pods"),
        ("10.0.0.4", PeerKind.UNKNOWN, "unknown-cluster-address"),
        ("192.168.0.1", PeerKind.ENTITY, "node"),
        ("192.168.0.7", PeerKind.ENTITY, "node"),
        ("203.0.113.9", PeerKind.CIDR, "203.0.113.0/24"),
        ("203.0.113.200", PeerKind.CIDR, "203.0.113.128/25"),
        ("2001:db8::5", PeerKind.CIDR, "2001:db8::/32"),
        ("10.96.0.77", PeerKind.UNKNOWN, "unknown-cluster-address"),
        ("169.254.1.1", PeerKind.UNKNOWN, "link-local"),
        ("fe80::1", PeerKind.UNKNOWN, "link-local"),
        ("224.0.0.1", PeerKind.UNKNOWN, "multicast"),
        ("ff02::1", PeerKind.UNKNOWN, "multicast"),
        ("255.255.255.255", PeerKind.UNKNOWN, "reserved"),
        ("8.8.8.8", PeerKind.ENTITY, "world"),
        ("2620:fe::fe", PeerKind.ENTITY, "world"),
    ],
)
def test_names(address: str, kind: PeerKind, name: str) -> None:
    got = names().name(ip_address(address))
    assert (got.kind, got.name) == (kind, name)


def test_a_task_has_its_identity() -> None:
    got = names().name(ip_address("10.0.0.1"))
    assert got.identity is not None
    assert got.identity.dag_id == "finance"


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.96.0.1", Place.API_SERVER), ("192.168.0.1", Place.API_SERVER), ("192.168.0.7", Place.THIS_NODE),
        ("192.168.0.2", Place.OTHER_NODE), ("10.0.0.1", Place.ELSEWHERE), ("8.8.8.8", Place.ELSEWHERE),
    ],
)  # fmt: skip
def test_places_are_known_beside_names(address: str, place: Place) -> None:
    api = Service("default", "kubernetes", (ip_address("10.96.0.1"),))
    piece = EndpointSlice("default", "kubernetes", "kubernetes", (ip_address("192.168.0.1"),))
    cluster = replace(
        CLUSTER,
        services=CLUSTER.services.set(("default", "kubernetes"), api),
        slices=CLUSTER.slices.set(("default", "kubernetes"), piece),
        nodes=CLUSTER.nodes.set("n2", Node("n2", (ip_address("192.168.0.2"),))),
    )
    assert names(cluster).name(ip_address(address)).place is place


def test_the_pod_behind_a_service_s_endpoint_is_known() -> None:
    own = EndpointSlice("airflow", "own-x", "own", (ip_address("10.0.0.1"),))
    got = names(replace(CLUSTER, slices=CLUSTER.slices.set(("airflow", "own-x"), own))).name(ip_address("10.0.0.1"))
    assert (got.name, got.pod, got.identity and got.identity.dag_id) == ("airflow/own", "task", "finance")


def test_names_follow_a_pod_that_comes_and_goes() -> None:
    found, uid = names(), PodUid("new")
    fresh = pod("new", "10.0.0.1", "other", Kind.KUBERNETES_EXECUTOR)
    cluster = replace(CLUSTER, pods=CLUSTER.pods.delete(PodUid("task")).set(uid, fresh))
    found.update(cluster, Changes(pods=frozenset({uid, PodUid("task")})))
    assert found.name(ip_address("10.0.0.1")).name == "airflow/other/load"
    cluster = replace(cluster, pods=cluster.pods.delete(uid))
    found.update(cluster, Changes(pods=frozenset({uid})))
    assert found.name(ip_address("10.0.0.1")).name == "unknown-cluster-address"


def test_the_old_owner_s_end_does_not_take_a_reused_address_away() -> None:
    found = names()
    both = CLUSTER.pods.set(PodUid("new"), pod("new", "10.0.0.1", "other", Kind.KUBERNETES_EXECUTOR))
    found.update(replace(CLUSTER, pods=both), Changes(pods=frozenset({PodUid("new")})))
    found.update(replace(CLUSTER, pods=both.delete(PodUid("task"))), Changes(pods=frozenset({PodUid("task")})))
    assert found.name(ip_address("10.0.0.1")).name == "airflow/other/load"


def test_names_follow_services_and_policies() -> None:
    found = names()
    cluster = replace(CLUSTER, services=Map(), slices=Map())
    found.update(cluster, Changes(services=frozenset({("db", "pg")}), slices=frozenset({("db", "pg-x")})))
    assert found.name(ip_address("10.96.0.5")).name == "unknown-cluster-address"
    found.update(replace(cluster, policies=Map()), EVERYTHING)
    assert found.name(ip_address("203.0.113.9")).name == "world"


def test_a_stranger_s_service_names_nothing_that_it_lists() -> None:
    """P12: whoever writes a service or a slice chooses the addresses in it."""
    listed = tuple(map(ip_address, ("10.0.0.1", "192.168.0.1", "10.96.0.5", "203.0.113.9", "8.8.8.8")))
    stranger = Service("stranger", "grab", (ip_address("10.96.0.66"),), external=listed)
    piece = EndpointSlice("stranger", "grab-x", "grab", listed[:3])
    own = EndpointSlice("airflow", "own-x", "own", (ip_address("10.0.0.3"),))
    cluster = replace(
        CLUSTER,
        services=CLUSTER.services.set(("stranger", "grab"), stranger),
        slices=CLUSTER.slices.set(("stranger", "grab-x"), piece).set(("airflow", "own-x"), own),
    )
    found, was = names(cluster), names()
    for address in listed:
        assert found.name(address) == was.name(address)
    assert found.name(ip_address("10.0.0.3")).name == "airflow/own", "a service of the pod's own namespace names it"


def test_an_external_address_is_named_after_a_service_that_a_rule_names() -> None:
    shop = Service("shop", "lb", external=(ip_address("192.0.2.9"),))
    rule = Rule("r", Direction.EGRESS, (ServicePeer("shop", "lb"),), None)
    naming = Policy(PolicyRef("airflow", "TaskNetworkPolicy", "q"), Subject(), egress=(rule,))
    cluster = replace(
        CLUSTER,
        services=CLUSTER.services.set(("shop", "lb"), shop),
        policies=CLUSTER.policies.set(naming.ref, naming),
    )
    assert names(cluster).name(ip_address("192.0.2.9")).name == "shop/lb"


def test_everything_else_forgets_pods_that_are_gone() -> None:
    found = names()
    found.update(replace(CLUSTER, pods=Map()), EVERYTHING)
    assert found.name(ip_address("10.0.0.3")).kind is PeerKind.UNKNOWN


def test_names_have_few_values() -> None:
    """Pods that are no tasks share one name for each namespace: metrics stay few."""
    assert pod_name(pod("a", "10.0.0.1")).name == pod_name(pod("b", "10.0.0.2")).name


def test_a_pod_is_named_for_people() -> None:
    assert CLUSTER.pod_name(PodUid("task")) == "airflow/task"
    assert CLUSTER.pod_name(PodUid("gone")) == "gone"
