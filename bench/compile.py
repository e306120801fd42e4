"""How long the compiler takes: whole, one policy, one pod. Prints a table; run as `python -m bench.compile`."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from immutables import Map

from agent.compiler.compiler import Compiler
from agent.model.changes import Changes
from agent.model.cluster import Cluster, EndpointSlice, Namespace, Node, Pod, Service, ServicePort, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import (
    CidrPeer,
    Entity,
    EntityPeer,
    Peer,
    PodPeer,
    Policy,
    PolicyRef,
    PortMatch,
    Rule,
    ServicePeer,
    Subject,
    TaskPeer,
)
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction

NAMESPACES = 50
LOCAL = 100
"""Pods of this node, whatever the cluster's size."""


def pod(i: int, *, team: int | None = None) -> Pod:
    namespace, dag = f"ns{i % NAMESPACES}", f"dag{i % 200}"
    identity = Identity("c", namespace, f"sa{i % 5}", dag, f"task{i % 7}", Kind.KUBERNETES_EXECUTOR)
    labels = (("run_id", f"r{i}"), ("team", f"t{(i if team is None else team) % 20}"))
    return Pod(
        uid=PodUid(f"uid-{i:06}"),
        namespace=namespace,
        name=f"pod-{i}",
        claim=Claim(identity, labels),
        labels=labels,
        addresses=(ip_address("10.128.0.0") + i,),
        node="here" if i < LOCAL else f"node{i % 100}",
    )


def policy(i: int, prefixes: int) -> Policy:
    """One policy that selects the tasks of a DAG in a namespace, with a private list of CIDRs and the usual peers."""
    namespace = f"ns{i % NAMESPACES}"
    first = int(IPv4Address("20.0.0.0")) + i * prefixes * 512
    cidrs: list[Peer] = [CidrPeer(IPv4Network((first + n * 512, 24))) for n in range(prefixes)]
    team = LabelSelector((Requirement("team", Operator.IN, (f"t{i % 20}",)),))
    peers: list[tuple[Peer, ...]] = [
        tuple(cidrs),
        (EntityPeer(Entity.WORLD),),
        (
            PodPeer(namespace, None, team),
            TaskPeer((f"dag{i % 200}",), (), namespace),
            ServicePeer("ns0", f"svc{i % 100}"),
        ),
    ]
    ports = (PortMatch(6, 443), PortMatch(6, 8000, 8000 + i % 100))
    egress = tuple(Rule(f"r{n}", Direction.EGRESS, p, ports if n < 2 else None) for n, p in enumerate(peers))
    return Policy(
        PolicyRef(namespace, "TaskNetworkPolicy", f"p{i}"), Subject(dag_ids=(f"dag{i % 200}", "dag1*")), egress
    )


def cluster(pods: int, policies: int, prefixes: int) -> Cluster:
    services = [
        Service("ns0", f"svc{i}", (ip_address("10.96.0.0") + i,), (ServicePort("", 6, 80, 8080),)) for i in range(200)
    ]
    slices = [EndpointSlice("ns0", f"svc{i}", f"svc{i}", (pod(i * 7 % pods).addresses[0],)) for i in range(200)]
    return Cluster(
        revision=1,
        complete=True,
        pods=Map({p.uid: p for p in map(pod, range(pods))}),
        namespaces=Map({f"ns{i}": Namespace(f"ns{i}", managed=True) for i in range(NAMESPACES)}),
        services=Map({(s.namespace, s.name): s for s in services}),
        slices=Map({(s.namespace, s.name): s for s in slices}),
        nodes=Map({f"n{i}": Node(f"n{i}", (ip_address("172.16.0.0") + i,)) for i in range(100)}),
        policies=Map({p.ref: p for p in (policy(i, prefixes // max(policies, 1)) for i in range(policies))}),
        settings=Settings(
            node="here",
            pod_ranges=(ip_network("10.128.0.0/10"),),
            service_ranges=(ip_network("10.96.0.0/12"),),
            metadata=(ip_address("169.254.169.254"),),
        ),
    )


def seconds_of_one_pod(compiler: Compiler, was: Cluster, pods: int) -> tuple[float, float]:
    """Mean of many: a pod that comes, and the same that goes."""
    comes = goes = 0.0
    for i in range(200):
        new = replace(pod(pods + i), node="here")
        changes = Changes(pods=frozenset([new.uid]))
        after = replace(was, pods=was.pods.set(new.uid, new))
        start = time.perf_counter()
        compiler.update(after, changes)
        middle = time.perf_counter()
        compiler.update(was, changes)
        comes, goes = comes + middle - start, goes + time.perf_counter() - middle
    return comes / 200, goes / 200


def measure(pods: int, policies: int, prefixes: int) -> None:
    snapshot = cluster(pods, policies, prefixes)
    compiler = Compiler()
    start = time.perf_counter()
    compiler.update(snapshot)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    edited = policy(3, prefixes // policies)
    edited = replace(edited, egress=(edited.egress or ())[:1])
    compiler.update(replace(snapshot, policies=snapshot.policies.set(edited.ref, edited)))
    one_policy = time.perf_counter() - start
    compiler.update(snapshot)
    comes, goes = seconds_of_one_pod(compiler, snapshot, pods)
    want = compiler.want
    sizes = f"{pods:>7} {policies:>8} {prefixes:>8}"
    sys.stdout.write(
        f"{sizes} {whole:>8.2f} {one_policy:>8.2f} {comes * 1e6:>9.0f} {goes * 1e6:>10.0f}"
        f"  peers={len(want.peers)} hosts={len(want.hosts)} rules={len(want.rules)} rulesets={len(want.rulesets)}\n"
    )


def main() -> None:
    sys.stdout.write("   pods policies prefixes  whole_s policy_s pod_in_us pod_out_us\n")
    for pods in (1_000, 10_000):
        measure(pods, 500, 20_000)


if __name__ == "__main__":
    main()
