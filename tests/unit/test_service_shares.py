"""Services and endpoint slices that are too many addresses are refused by name, and nobody else is (P17)."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from immutables import Map

from agent.compiler.admission import Admission
from agent.compiler.capacity import Limits, check_capacity
from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.compiler.service_shares import ServiceShares
from agent.errors import InvalidObject
from agent.judge.judge import judge
from agent.model.changes import Changes, between
from agent.model.cluster import Cluster, ContainerPort, EndpointSlice, Namespace, Service, ServicePort
from agent.model.network_policy import LivePodPeer, NetworkPolicy, NetworkPolicyRule
from agent.model.policy import PolicyRef, ServicePeer
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Verdict
from agent.model.want import Host
from agent.parse.objects import parse_object
from agent.sync.intake import Intake
from bench import worst
from tests.unit.test_admission import small_is_in_force

HOSTS = 4_000
LIMITS = Limits(100_000, HOSTS, 200_000, 10_000)
PORT = ServicePort("h", 6, 80)


def intake() -> Intake:
    admission = Admission(LIMITS.peers, ServiceShares(LIMITS.hosts))
    return Intake(lambda want, cluster: check_capacity(want, LIMITS, cluster), LIMITS.rules, admission)


def addresses(first: str, count: int) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(first) + i for i in range(count))


def service(name: str, external: tuple[IPv4Address, ...] = (), ports: int = 1) -> Service:
    own = (IPv4Address(f"10.96.0.{int(name[1:]) + 10}"),)
    every = tuple(ServicePort(f"h{i}", 6, 80 + i) for i in range(ports))
    return Service("ta", name, own, every, external=external)


def snapshot(*pieces: Service | EndpointSlice) -> Cluster:
    """One policy that selects nobody names all of the services."""
    services = {(s.namespace, s.name): s for s in pieces if isinstance(s, Service)}
    slices = {(s.namespace, s.name): s for s in pieces if isinstance(s, EndpointSlice)}
    peers = tuple(ServicePeer("ta", f"s{i}") for i in range(200))
    naming = worst.one("names", worst.rule("r", peers), dags=("nobody",))
    return replace(worst.cluster(3, naming), services=Map(services), slices=Map(slices))


def has(compiler: Compiler, address: str) -> bool:
    return Host(int(IPv4Address(address)) | 0xFFFF << 32) in compiler.want.hosts


def test_two_services_of_a_tenant_stop_nobody_else() -> None:
    """120,000 external addresses in two Services: every revision of everybody was refused."""
    gate = intake()
    wide = [service(f"s{i}", addresses(f"20.{i}.0.0", HOSTS // 2)) for i in range(2)]
    compiler, _ = gate.compiled(snapshot(*wide, service("s7", addresses("30.0.0.1", 2))))
    errors = gate.errors()
    assert [error.obj for error in errors] == ["Service/ta/s0", "Service/ta/s1"]
    assert "it needs 2,001 addresses in map hosts, one object may have" in errors[0].problem
    assert "no version of it is in force" in errors[0].problem
    assert not has(compiler, "20.0.0.1")
    assert has(compiler, "30.0.0.1"), "another service of the same tenant"
    assert small_is_in_force(compiler)


def test_endpoints_are_counted_as_services_are_and_pods_addresses_once() -> None:
    gate = intake()
    pieces = [
        EndpointSlice("ta", f"e{i}", "s1", addresses(f"20.{i}.0.0", 700), (ContainerPort("h", 6, 80),))
        for i in range(9)
    ]
    pods = worst.cluster(3).pods
    same = [
        EndpointSlice("zz", f"e{i}", "x", tuple(a for p in pods.values() for a in p.addresses)) for i in range(900)
    ]
    compiler, _ = gate.compiled(snapshot(service("s1"), *pieces, *same))
    refused = {error.obj for error in gate.errors()}
    assert refused
    assert refused < {f"EndpointSlice/ta/e{i}" for i in range(9)}
    assert len(compiler.want.hosts) <= HOSTS
    assert small_is_in_force(compiler)


def test_the_version_before_stays_and_a_smaller_one_is_taken() -> None:
    gate = intake()
    good, bad = service("s1", addresses("30.0.0.1", 2)), service("s1", addresses("20.0.0.0", HOSTS))
    compiler, taken = gate.compiled(snapshot(good))
    changed = Changes(services=frozenset([("ta", "s1")]))
    compiler, taken, _ = gate.steps(compiler, taken, snapshot(bad), changed)
    assert "the version before stays in force" in gate.errors()[0].problem
    assert has(compiler, "30.0.0.1")
    assert taken.services["ta", "s1"] == good
    compiler, taken, _ = gate.steps(compiler, taken, snapshot(service("s1", addresses("30.0.0.9", 2))), changed)
    assert gate.errors() == ()
    assert has(compiler, "30.0.0.9")
    assert not has(compiler, "30.0.0.1")


def test_what_was_refused_beside_another_is_taken_when_that_goes() -> None:
    gate = intake()
    wide = [service(f"s{i}", addresses(f"20.{i}.0.0", 900)) for i in range(4)]
    compiler, taken = gate.compiled(snapshot(*wide))
    refused = {error.obj for error in gate.errors()}
    assert refused == {"Service/ta/s0", "Service/ta/s1"}, "a namespace may have half"
    gone = Changes(services=frozenset([("ta", "s3")]))
    compiler, taken, _ = gate.steps(compiler, taken, snapshot(*wide[:3]), gone)
    assert {error.obj for error in gate.errors()} == {"Service/ta/s0"} or gate.errors() == ()
    assert sum(has(compiler, f"20.{i}.0.1") for i in range(4)) == 2


def test_a_newcomer_finds_room_beside_what_is_in_force() -> None:
    gate = intake()
    wide = [replace(service(f"s{i}", addresses(f"20.{i}.0.0", 900)), namespace=f"t{i % 2}") for i in range(6)]
    compiler, taken = gate.compiled(snapshot(*wide))
    new = replace(service("s9", addresses("30.0.0.1", 10)), namespace="ta")
    more = replace(snapshot(*wide, new), policies=taken.policies)
    compiler, taken, _ = gate.steps(compiler, taken, more, Changes(services=frozenset([("ta", "s9")])))
    assert has(compiler, "30.0.0.1")
    assert {error.obj.split("/")[1] for error in gate.errors()} <= {"t0", "t1"}


def test_ports_times_addresses_are_bounded_too() -> None:
    gate, start = intake(), time.process_time()
    wide = [service(f"s{i}", addresses("20.0.0.0", 900), ports=1000) for i in range(60)]
    compiler, _ = gate.compiled(snapshot(*wide))
    assert all("ports at addresses" in error.problem for error in gate.errors())
    assert len(gate.errors()) == 60, "each is more than a quarter"
    assert time.process_time() - start < 5
    assert small_is_in_force(compiler)


def test_rows_that_a_service_s_ports_make_are_its_policies_own() -> None:
    """300 rulesets with the 1,000 ports of one Service: nobody's rows were counted, and others were blamed."""
    gate, start = intake(), time.process_time()
    peer = (ServicePeer("ta", "s1"),)
    many = [worst.one(f"p{i:03}", worst.rule("r", peer), dags=(f"dag{i}",)) for i in range(300)]
    given = replace(worst.cluster(300, *many), services=Map({("ta", "s1"): service("s1", ports=1000)}))
    compiler, _ = gate.compiled(given)
    assert time.process_time() - start < 10
    assert gate.errors()
    assert all("/etl/" in error.obj and "rows of map rules" in error.problem for error in gate.errors())
    assert small_is_in_force(compiler)


def test_a_revision_that_is_refused_forgets_no_refusal() -> None:
    """What comes back into force is in the changes of the next revision that is taken."""
    gate = intake()
    good, bad = service("s1", addresses("30.0.0.1", 2)), service("s1", addresses("20.0.0.0", HOSTS))
    compiler, taken = gate.compiled(snapshot(bad))
    changed = Changes(services=frozenset([("ta", "s1")]))
    gate.admission.admit(snapshot(good), changed)  # of a revision that came to nothing
    compiler, taken, _ = gate.steps(compiler, taken, snapshot(good), Changes())
    assert has(compiler, "30.0.0.1")


def manifest(kind: str, **fields: Any) -> dict[str, Any]:
    version = "discovery.k8s.io/v1" if kind == "EndpointSlice" else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"namespace": "ta", "name": "s"}, **fields}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (manifest("Service", spec={"externalIPs": ["20.0.0.1"] * 1001}), "spec.externalIPs"),
        (manifest("Service", spec={"ports": [{"port": 1}] * 1001}), "spec.ports"),
        (manifest("Service", status={"loadBalancer": {"ingress": [{}] * 1001}}), "status.loadBalancer.ingress"),
        (manifest("EndpointSlice", endpoints=[{}] * 1001), "endpoints"),
        (manifest("EndpointSlice", endpoints=[{"addresses": ["20.0.0.1"] * 501}] * 2), "endpoints"),
        (manifest("EndpointSlice", ports=[{"port": 1}] * 1001), "ports"),
    ],
)
def test_one_object_has_bounds_that_name_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidObject, match=r"1,00[12]") as caught:
        parse_object(given)
    assert caught.value.field == field
    assert "at most 1,000" in caught.value.problem


def test_a_service_whose_slice_was_refused_leads_nobody_knows_where() -> None:
    """A NetworkPolicy allows a service's address if all that is behind it may be reached (P13)."""
    ok, bad = worst.pod(1, "ta"), worst.pod(2, "ta")
    ok, bad = replace(ok, labels=(("app", "ok"),)), replace(bad, labels=(("app", "bad"),))
    client = replace(worst.pod(3, "ta"), labels=(("app", "client"),))
    only = LivePodPeer("ta", None, LabelSelector((Requirement("app", Operator.IN, ("ok",)),)))
    rule = NetworkPolicyRule("egress[0]", worst.EGRESS, (only,), None)
    policy = NetworkPolicy(PolicyRef("ta", "NetworkPolicy", "only-ok"), LabelSelector(), egress=(rule,))
    ends = (ContainerPort("h0", 6, 80),)
    front = service("s0")
    made = snapshot(front, EndpointSlice("ta", "s-ok", "s0", ok.addresses, ends))
    given = replace(
        made,
        pods=Map({pod.uid: pod for pod in (ok, bad, client)}),
        namespaces=made.namespaces.set("ta", Namespace("ta", managed=True)),
        policies=Map(),
        network_policies=Map({policy.ref: policy}),
        settings=replace(made.settings, network_policy=True),
    )

    def verdict(compiler: Compiler) -> Verdict:
        return lookup(compiler.want, client.uid, worst.EGRESS, front.addresses[0], 6, 80).verdict

    gate = intake()
    compiler, taken = gate.compiled(given)
    assert verdict(compiler) is Verdict.ALLOW
    filling = {
        ("ta", f"fill{i}"): EndpointSlice("ta", f"fill{i}", "s1", addresses(f"10.9.{4 * i}.0", 900), ends)
        for i in range(2)
    }
    second = EndpointSlice("ta", "s-bad", "s0", (*bad.addresses, *addresses("10.9.100.0", 900)), ends)
    for slices in (filling, {("ta", "s-bad"): second}):
        now = replace(given, slices=given.slices.update(slices))
        compiler, taken, _ = gate.steps(compiler, taken, now, between(given, now))
        given = now
    for ports in (1, 2):  # judged again, it still has no version in force
        (error,) = gate.errors()
        assert (error.obj, "no version of it is in force" in error.problem) == ("EndpointSlice/ta/s-bad", True)
        now = replace(given, services=given.services.set(("ta", "s9"), service("s9", ports=ports)))
        compiler, taken, _ = gate.steps(compiler, taken, now, between(given, now))
        given = now
    assert verdict(compiler) is Verdict.DENY
    assert judge(taken, client, worst.EGRESS, front.addresses[0], 6, 80).verdict is Verdict.DENY
