"""What the worst policies cost the compiler: time, memory, and what is refused. `python -m bench.worst`.

Each input runs in a process of its own, so that memory is that input's.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from immutables import Map

from agent.abi.structs import MAPS
from agent.compiler.capacity import Limits, check_capacity
from agent.model.changes import Changes
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.network_policy import LivePodPeer, NetworkPolicy, NetworkPolicyRule
from agent.model.policy import CidrPeer, Peer, Policy, PolicyRef, PortMatch, Rule, Subject, TaskPeer
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction
from agent.sync.intake import Intake

EGRESS = Direction.EGRESS
ROWS = MAPS["rules"].entries * 9 // 10
LIMITS = Limits(100_000, 100_000, ROWS, 10_000)
EVERYTHING = IPv4Network("0.0.0.0/0")


def pod(i: int, namespace: str = "etl") -> Pod:
    identity = Identity("c", namespace, "sa", f"dag{i}", "t", Kind.KUBERNETES_EXECUTOR)
    labels = (("app", f"a{i}"), ("team", f"t{i % 7}"))
    return Pod(
        PodUid(f"u{i:05}"),
        namespace,
        f"p{i}",
        Claim(identity, labels),
        labels,
        (ip_address("10.0.0.0") + i,),
        node="n",
    )


def cluster(pods: int, *policies: Policy, native: tuple[NetworkPolicy, ...] = ()) -> Cluster:
    """A small policy of another namespace is among them: it must stay in force whatever the others are."""
    small = Policy(
        PolicyRef("zz", "TaskNetworkPolicy", "small"), Subject(), (rule("db", (cidr("192.0.2.1/32"),), 5432),)
    )
    every = (*policies, small)
    return Cluster(
        complete=True,
        pods=Map({p.uid: p for p in (*map(pod, range(pods)), pod(99_999, "zz"))}),
        namespaces=Map({n: Namespace(n, managed=True) for n in ("etl", "zz")}),
        policies=Map({p.ref: p for p in every}),
        network_policies=Map({p.ref: p for p in native}),
        settings=Settings(node="n", pod_ranges=(ip_network("10.0.0.0/16"),), network_policy=bool(native)),
    )


def cidr(text: str, *holes: IPv4Network) -> CidrPeer:
    return CidrPeer(ip_network(text), holes)


def rule(name: str, peers: tuple[Peer, ...], first: int | None = None, last: int | None = None) -> Rule:
    return Rule(name, EGRESS, peers, None if first is None else (PortMatch(6, first, last),))


def one(name: str, *rules: Rule, dags: tuple[str, ...] = ()) -> Policy:
    return Policy(PolicyRef("etl", "TaskNetworkPolicy", name), Subject(dag_ids=dags), rules)


def ranges_and_ports() -> Cluster:
    """499 rules of a /32 at all TCP ports, and one of 501 ports."""
    wide = [rule(f"r{i}", (cidr(f"20.0.{i >> 8}.{i & 255}/32"),), 1, 65535) for i in range(499)]
    ports = tuple(PortMatch(6, 100 + 100 * i) for i in range(501))
    return cluster(1, one("big", *wide, Rule("ports", EGRESS, (cidr("30.0.0.0/8"),), ports)))


def hole(i: int) -> CidrPeer:
    return CidrPeer(EVERYTHING, (IPv4Network((int(IPv4Address("20.0.0.0")) + 256 * i, 24)),))


def holes(policies: int, pods: int) -> Callable[[], Cluster]:
    """0.0.0.0/0 but for a hole of one's own, each for one DAG."""
    return lambda: cluster(
        pods, *(one(f"p{i:04}", rule("r", (hole(i),), 443), dags=(f"dag{i}",)) for i in range(policies))
    )


def natives(selectors: int) -> Callable[[], Cluster]:
    """One NetworkPolicy with so many podSelectors that leave one value out."""

    def selector(i: int) -> LabelSelector:
        return LabelSelector((Requirement("app", Operator.NOT_IN, (f"a{i}",)),))

    def made() -> Cluster:
        peers = tuple(LivePodPeer("etl", None, selector(i)) for i in range(selectors))
        ref = PolicyRef("etl", "NetworkPolicy", "n")
        policy = NetworkPolicy(ref, LabelSelector(), egress=(NetworkPolicyRule("egress[0]", EGRESS, peers, None),))
        return cluster(1000, native=(policy,))

    return made


def tasks(count: int) -> Callable[[], Cluster]:
    """One policy with so many `tasks` peers."""
    return lambda: cluster(1000, one("t", rule("r", tuple(TaskPeer((f"*{i}*",), (), None) for i in range(count)))))


INPUTS: dict[str, Callable[[], Cluster]] = {
    "499 rules at 1-65535 and 501 ports, 1 pod": ranges_and_ports,
    "200 holes, 100 pods": holes(200, 100),
    "400 holes, 100 pods": holes(400, 100),
    "800 holes, 100 pods": holes(800, 100),
    "300 holes, 300 pods": holes(300, 300),
    "5,000 NotIn podSelectors, 1,000 pods": natives(5000),
    "10,000 tasks peers, 1,000 pods": tasks(10_000),
}


OTHER = "300 holes, 300 pods"


def measure(name: str) -> str:
    """A line of the table: whole compile, a pod more, all of it replaced, peak memory, and what was refused."""
    snapshot = INPUTS[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    intake = Intake(lambda want, cluster: check_capacity(want, LIMITS, cluster), ROWS)
    start = time.process_time()
    compiler, taken = intake.compiled(snapshot)
    whole = time.process_time() - start
    new = replace(pod(50_000), namespace="zz")
    start = time.process_time()
    more = replace(snapshot, pods=snapshot.pods.set(new.uid, new))
    compiler, *_ = intake.steps(compiler, taken, more, Changes(pods=frozenset([new.uid])))
    again = time.process_time() - start
    errors, rows = intake.errors(), len(compiler.want.rules)
    other = INPUTS[OTHER if name != OTHER else "800 holes, 100 pods"]()
    start = time.process_time()
    intake.steps(compiler, more, other, Changes(everything_else=True, pods=frozenset([*more.pods, *other.pods])))
    replaced = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    refused = len(errors)
    return f"| {name} | {whole:.2f} s | {again:.2f} s | {replaced:.2f} s | {grown:.0f} MB | {rows:,} | {refused} |"


def main(arguments: list[str]) -> None:
    if arguments:
        sys.stdout.write(measure(arguments[0]) + "\n")
        return
    sys.stdout.write(
        "| input | whole, CPU | one pod more, CPU | replaced, CPU | memory | rows | refused |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    for name in INPUTS:
        subprocess.run([sys.executable, "-m", "bench.worst", name], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
