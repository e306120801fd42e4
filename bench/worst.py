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
from agent.compiler.admission import Admission
from agent.compiler.capacity import Limits, check_capacity
from agent.compiler.service_shares import ServiceShares
from agent.model.changes import Changes, between
from agent.model.cluster import Cluster, Namespace, Pod, Service, ServicePort, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.network_policy import LivePodPeer, NetworkPolicy, NetworkPolicyRule
from agent.model.policy import (
    CidrPeer,
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


def inside_of_ports() -> Cluster:
    """A CIDR at 999 ports, and 300 rules of networks in it: each network needs the rows of the ports as well."""
    ports = tuple(PortMatch(6, 3 + 2 * i) for i in range(999))
    inner = [rule(f"r{i}", (cidr(f"20.{i >> 8}.{i & 255}.0/24"),)) for i in range(300)]
    return cluster(1, one("big", Rule("ports", EGRESS, (cidr("20.0.0.0/9"),), ports), *inner))


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


def many_cidrs() -> Cluster:
    """As many as fit, with none left for the cluster's own ranges; they select nobody."""
    peers = ([cidr(f"20.{n}.{i >> 8}.{i & 255}/32") for i in range(8_333)] for n in range(12))
    return cluster(1, *(one(f"c{n:02}", rule("r", tuple(each)), dags=("nobody",)) for n, each in enumerate(peers)))


def without_rows(policies: int, count: int, pods: int) -> Callable[[], Cluster]:
    """Peers that hold for nobody, in the ruleset of every pod: each has a small policy of its own."""

    def peer(n: int, i: int) -> PodPeer:
        return PodPeer("etl", None, LabelSelector((Requirement("k", Operator.IN, (f"v{n}-{i}",)),)))

    def made() -> Cluster:
        big = (one(f"b{n:02}", rule("r", tuple(peer(n, i) for i in range(count)))) for n in range(policies))
        small = (one(f"s{i:03}", rule("r", (cidr("20.0.0.1/32"),), 443), dags=(f"dag{i}",)) for i in range(pods))
        return cluster(pods, *big, *small)

    return made


def patterns() -> Cluster:
    """60 policies of 1,000 patterns, and 100 ids that are as long as ids may be and nearly match."""
    dags = (tuple(f"{'*a' * 118}*{i}b{n}" for i in range(1000)) for n in range(60))
    policies = (one(f"p{n:02}", rule("r", (cidr("20.0.0.1/32"),), 443), dags=each) for n, each in enumerate(dags))
    found = cluster(100, *policies)
    return replace(found, pods=Map({uid: _with_long_id(each) for uid, each in found.pods.items()}))


def _with_long_id(pod: Pod) -> Pod:
    if pod.namespace != "etl":
        return pod
    identity = replace(pod.claim.identity, dag_id="a" * 240 + pod.uid[-4:])
    return replace(pod, claim=replace(pod.claim, identity=identity))


def services(count: int, addresses: int, ports: int, policies: int) -> Callable[[], Cluster]:
    """External addresses, ports, and policies that name all of the Services, each for a pod of its own."""

    def service(n: int) -> Service:
        external = tuple(ip_address(f"30.{n}.0.0") + i for i in range(addresses))
        every = tuple(ServicePort(f"h{i}", 6, 80 + i) for i in range(ports))
        return Service("etl", f"s{n}", (ip_address(f"10.96.1.{n}"),), every, external=external)

    def made() -> Cluster:
        found = {("etl", f"s{n}"): service(n) for n in range(count)}
        peers = tuple(ServicePeer("etl", f"s{n}") for n in range(count))
        naming = (one(f"n{i:03}", rule("r", peers), dags=(f"dag{i}",)) for i in range(policies))
        return replace(cluster(policies, *naming), services=Map(found))

    return made


INPUTS: dict[str, Callable[[], Cluster]] = {
    "499 rules at 1-65535 and 501 ports, 1 pod": ranges_and_ports,
    "300 networks inside of one at 999 ports, 1 pod": inside_of_ports,
    "200 holes, 100 pods": holes(200, 100),
    "400 holes, 100 pods": holes(400, 100),
    "800 holes, 100 pods": holes(800, 100),
    "300 holes, 300 pods": holes(300, 300),
    "5,000 NotIn podSelectors, 1,000 pods": natives(5000),
    "10,000 tasks peers, 1,000 pods": tasks(10_000),
    "12 policies of 8,333 CIDRs, 1 pod": many_cidrs,
    "2 policies of 10,000 peers, 100 rulesets": without_rows(2, 10_000, 100),
    "1,000 peers, 100 rulesets": without_rows(1, 1_000, 100),
    "60,000 patterns, 100 pods": patterns,
    "120 Services of 1,000 external addresses": services(120, 1000, 1, 1),
    "1 Service of 1,000 ports, 300 rulesets": services(1, 1, 1000, 300),
}


OTHER = "300 holes, 300 pods"


def measure(name: str) -> str:
    """A line of the table: whole compile, a pod more, all of it replaced, peak memory, and what was refused."""
    snapshot = INPUTS[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    admission = Admission(LIMITS.peers, ServiceShares(LIMITS.hosts))
    intake = Intake(lambda want, cluster: check_capacity(want, LIMITS, cluster), ROWS, admission)
    start = time.process_time()
    compiler, taken = intake.compiled(snapshot)
    whole = time.process_time() - start
    new = replace(pod(50_000), namespace="zz")
    start = time.process_time()
    more = replace(snapshot, pods=snapshot.pods.set(new.uid, new))
    compiler, taken, _ = intake.steps(compiler, taken, more, Changes(pods=frozenset([new.uid])))
    again = time.process_time() - start
    errors, rows = intake.errors(), len(compiler.want.rules)
    other = INPUTS[OTHER if name != OTHER else "800 holes, 100 pods"]()
    start = time.process_time()
    intake.steps(compiler, taken, other, between(taken, other))
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
