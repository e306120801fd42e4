"""How much the compiler writes: rows, prefixes and ports stay in proportion to what policies say."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from immutables import Map

from agent.compiler.capacity import Limits, check_capacity
from agent.compiler.compiler import Compiler, whole
from agent.compiler.lookup import lookup
from agent.compiler.prefixes import prefix_of
from agent.errors import CapacityError
from agent.model.changes import Changes, between
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import CidrPeer, Entity, EntityPeer, Policy, PolicyRef, PortMatch, Rule, Subject
from agent.model.verdict import Direction, EndpointState, Verdict
from agent.model.want import RuleKey, RuleValue, Want
from bench import compile as bench


def pod(i: int, *, namespace: str = "etl") -> Pod:
    identity = Identity("c", namespace, "etl", f"dag{i}", "load", Kind.KUBERNETES_EXECUTOR)
    return Pod(PodUid(f"u{i}"), namespace, f"p{i}", Claim(identity, ()), addresses=(ip_address("10.0.0.0") + i,))


def policy(i: int, *peers: object, ports: tuple[PortMatch, ...] | None = None) -> Policy:
    rules = tuple(Rule(f"r{n}", Direction.EGRESS, (peer,), ports) for n, peer in enumerate(peers))  # type: ignore[arg-type]
    return Policy(PolicyRef("etl", "TaskNetworkPolicy", f"p{i:03}"), Subject(dag_ids=(f"dag{i}",)), rules)


def cluster(policies: list[Policy], pods: int) -> Cluster:
    return Cluster(
        pods=Map({p.uid: p for p in map(pod, range(pods))}),
        namespaces=Map({"etl": Namespace("etl", managed=True)}),
        policies=Map({p.ref: p for p in policies}),
        settings=Settings(pod_ranges=(ip_network("10.0.0.0/16"),)),
    )


def test_private_lists_and_world_do_not_multiply(capsys: pytest.CaptureFixture[str]) -> None:
    """The worst case for rows: 200 rulesets, 200 x 20 private prefixes, world on 443 in each."""
    policies = []
    for i in range(200):
        nets = [CidrPeer(ip_network(f"20.{i}.{n * 2}.0/24")) for n in range(20)]
        rules = (
            Rule("own", Direction.EGRESS, tuple(nets), None),
            Rule("web", Direction.EGRESS, (EntityPeer(Entity.WORLD),), (PortMatch(6, 443),)),
        )
        policies.append(
            Policy(PolicyRef("etl", "TaskNetworkPolicy", f"p{i:03}"), Subject(dag_ids=(f"dag{i}",)), rules)
        )
    want = whole(cluster(policies, 200))
    classes = len({c.peer for c in want.peers.values()})
    with capsys.disabled():
        print(f"\n  rulesets={len(want.rulesets)} classes={classes} rules={len(want.rules)} peers={len(want.peers)}")
    assert len(want.rulesets) == 200
    assert classes >= 200
    assert len(want.rules) <= 200 * 12
    assert lookup(want, PodUid("u3"), Direction.EGRESS, ip_address("20.3.2.1"), 6, 80).verdict is Verdict.ALLOW
    assert lookup(want, PodUid("u3"), Direction.EGRESS, ip_address("20.4.2.1"), 6, 80).verdict is Verdict.DENY
    assert lookup(want, PodUid("u3"), Direction.EGRESS, ip_address("20.4.2.1"), 6, 443).verdict is Verdict.ALLOW


def test_the_whole_internet_but_a_hole_does_not_multiply() -> None:
    """A CIDR around nearly everything counts in the base class, so it touches no other class."""
    policies = [
        policy(
            i, CidrPeer(ip_network("0.0.0.0/0"), (ip_network("10.0.0.0/8"),)), CidrPeer(ip_network(f"20.{i}.0.0/16"))
        )
        for i in range(150)
    ]
    want = whole(cluster(policies, 150))
    assert len(want.rules) <= 150 * 12


def test_a_range_costs_rows_by_its_own_prefixes_whatever_others_name() -> None:
    """Ports that others name cost it nothing (P17)."""
    wide = policy(0, EntityPeer(Entity.WORLD), ports=(PortMatch(6, 1, 65535),))
    others = [
        policy(i, EntityPeer(Entity.WORLD), ports=tuple(PortMatch(6, 100 * i + n) for n in range(100)))
        for i in range(1, 60)
    ]
    alone, beside = whole(cluster([wide], 1)), whole(cluster([wide, *others], 1))
    assert rows_of(beside, "u0") == rows_of(alone, "u0")
    assert len(rows_of(alone, "u0")) < 60


def rows_of(want: Want, uid: str) -> dict[RuleKey, RuleValue]:
    ruleset = want.assignments[PodUid(uid)].ruleset
    return {key: value for key, value in want.rules.items() if key.ruleset == ruleset}


def test_prefixes_that_say_what_is_around_them_are_left_out() -> None:
    nets = [CidrPeer(ip_network(n)) for n in ("20.0.0.0/16", "20.0.1.0/24", "20.0.1.128/25")]
    rule = Rule("r", Direction.EGRESS, tuple(nets), None)
    subject = Subject(dag_ids=("dag0",))
    want = whole(cluster([Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), subject, (rule,))], 1))
    lengths = {length for _, length in want.peers}
    assert 96 + 16 in lengths
    assert not {prefix_of(ip_network(n)) for n in ("20.0.1.0/24", "20.0.1.128/25")} & want.peers.keys()


def test_pods_with_the_same_policies_share_a_ruleset_and_keep_it() -> None:
    shared = Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject(), ())
    snapshot = cluster([shared], 3)
    compiler = Compiler()
    compiler.update(snapshot)
    assert len({a.ruleset for a in compiler.want.assignments.values()}) == 1
    more = replace(snapshot, pods=snapshot.pods.set(PodUid("u9"), pod(9)))
    delta = compiler.update(more, Changes(pods=frozenset([PodUid("u9")])))
    assert delta.assignments.keys() == {"u9"}
    assert not delta.rules
    assert not delta.rulesets
    assert not delta.revoked


def test_unmanaged_and_foreign_pods() -> None:
    snapshot = cluster([], 1)
    pods = snapshot.pods.set(PodUid("x"), pod(7, namespace="other")).set(
        PodUid("y"), replace(pod(8), node="elsewhere")
    )
    want = whole(
        replace(snapshot, pods=pods.set(PodUid("u0"), replace(pod(0), node="here")), settings=Settings(node="here"))
    )
    assert want.assignments.keys() == {"u0"}
    assert PodUid("x") not in whole(replace(snapshot, pods=pods)).assignments, "of a namespace that nobody knows (L2)"
    known = snapshot.namespaces.set("other", Namespace("other"))
    want = whole(replace(snapshot, pods=pods, namespaces=known))
    assert (want.assignments[PodUid("x")].state, want.assignments[PodUid("x")].ruleset) == (
        EndpointState.UNMANAGED,
        0,
    )


def test_a_change_of_nothing_is_an_empty_delta() -> None:
    snapshot = bench.cluster(50, 20, 40)
    compiler = Compiler()
    compiler.update(snapshot)
    delta = compiler.update(replace(snapshot, revision=2), Changes(everything_else=True))
    assert not any((delta.peers, delta.hosts, delta.rules, delta.rulesets, delta.assignments, delta.revoked))


def test_additions_revoke_nothing_and_removals_do() -> None:
    """P10: a pod that comes into an allowed set, and goes."""
    rule = Rule("r", Direction.EGRESS, (CidrPeer(ip_network("10.0.0.0/16")), EntityPeer(Entity.CLUSTER)), None)
    tasks = Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject(dag_ids=("dag0",)), (rule,))
    snapshot = replace(cluster([tasks], 1), settings=Settings())
    outside = replace(pod(1), addresses=(ip_address("30.0.0.1"),))
    compiler = Compiler()
    compiler.update(snapshot)
    more = replace(snapshot, pods=snapshot.pods.set(outside.uid, outside))
    assert not compiler.update(more).revoked
    ruleset = compiler.want.assignments[PodUid("u0")].ruleset
    assert compiler.update(snapshot).revoked == {ruleset}


@pytest.mark.parametrize("local", [True, False])
def test_one_pod_costs_the_same_in_a_large_cluster(local: bool) -> None:
    """Counted in calls, since a clock would tell about the machine."""
    assert calls_for_one_pod(3000, local=local) <= 1.1 * calls_for_one_pod(300, local=local)


def calls_for_one_pod(pods: int, *, local: bool) -> int:
    snapshot = bench.cluster(pods, 20, 200)
    compiler = Compiler()
    compiler.update(snapshot)
    new = replace(bench.pod(pods + 1, team=1), uid=PodUid("new"), node="here" if local else "there")
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    after = replace(snapshot, pods=snapshot.pods.set(new.uid, new))
    sys.setprofile(counted)
    compiler.update(after, Changes(pods=frozenset([new.uid])))
    sys.setprofile(None)
    return count


def test_an_address_that_is_no_longer_the_hosts_is_revoked() -> None:
    """P8, P10: it passed as the node's, and no rule speaks about it."""
    closed = Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject(), ingress=())
    snapshot = replace(cluster([closed], 1), settings=Settings(host_addresses=(ip_address("192.168.0.1"),)))
    compiler = Compiler()
    compiler.update(snapshot)
    delta = compiler.update(replace(snapshot, settings=Settings()))
    assert delta.revoked == {compiler.want.assignments[PodUid("u0")].ruleset}


def test_metadata_that_becomes_known_is_revoked() -> None:
    """P11, P10: a rule without `to` reached the address until it was configured as metadata."""
    loose = Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject(), (Rule("r", Direction.EGRESS, None, None),))
    snapshot = replace(cluster([loose], 1), settings=Settings())
    compiler = Compiler()
    compiler.update(snapshot)
    delta = compiler.update(replace(snapshot, settings=Settings(metadata=(ip_address("169.254.169.254"),))))
    assert delta.revoked == {compiler.want.assignments[PodUid("u0")].ruleset}


_PRINT_WANT = """
from tests.unit.test_compiler_bounds import cluster, policy, whole
from agent.compiler.compiler import Compiler
from agent.model.policy import Entity, EntityPeer, PortMatch
compiler = Compiler()
ports = (PortMatch(6, 443), PortMatch(17, 1000, 2000), PortMatch(6, name="http"))
compiler.update(cluster([policy(i, EntityPeer(Entity.WORLD), ports=ports) for i in range(5)], 3))
want = compiler.want
print(sorted(map(repr, want.rules.items())), sorted(map(repr, want.hosts.items())))
print(sorted(map(repr, want.peers.items())), sorted(map(repr, want.assignments.items())), sorted(compiler.rule_refs))
"""


def test_every_agent_gives_the_same_numbers() -> None:
    """A restart that renumbered would rewrite maps that endpoints read meanwhile."""

    def said(seed: str) -> str:
        command = [sys.executable, "-c", _PRINT_WANT]
        environment = dict(os.environ, PYTHONHASHSEED=seed)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert said("1") == said("2") != ""


def test_numbers_do_not_depend_on_history() -> None:
    compiler = Compiler()
    for i in range(20):
        ports = (PortMatch(6, 1000 + i), PortMatch(6, 2000, 2100 + i))
        snapshot = cluster([policy(0, EntityPeer(Entity.WORLD), ports=ports)], 1)
        compiler.update(snapshot)
    assert compiler.want == whole(snapshot)


def test_changes_between_snapshots() -> None:
    old = cluster([], 2)
    new = replace(old, pods=old.pods.set(PodUid("u9"), pod(9)).delete(PodUid("u0")))
    assert between(old, new) == Changes(pods=frozenset([PodUid("u9"), PodUid("u0")]))
    assert between(old, replace(old, policies=old.policies.set(policy(0).ref, policy(0)))).everything_else
    assert between(old, replace(old, revision=9)) == Changes()
    assert Changes(everything_else=True) | between(old, new) == replace(between(old, new), everything_else=True)


def test_rules_that_went_keep_their_names_for_a_while() -> None:
    snapshot = cluster([policy(0, EntityPeer(Entity.WORLD))], 1)
    compiler = Compiler()
    compiler.update(snapshot)
    number = next(n for n, ref in compiler.rule_refs.items() if ref.rule == "r0")
    compiler.update(cluster([], 1))
    assert str(compiler.rule_refs[number]) == "TaskNetworkPolicy/etl/p000/r0"
    compiler.update(snapshot)
    assert next(n for n, ref in compiler.rule_refs.items() if ref.rule == "r0") == number


LARGE = Limits(peers=1000, hosts=1000, rules=1000, assignments=1000)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (
            {"peers": 3},
            r"map peers: \d+ entries are needed, 3 fit; the most are of TaskNetworkPolicy/etl/p000 \(3 CIDRs",
        ),
        ({"hosts": 1}, "map hosts: 4 entries are needed, 1 fit; the most are of the pods of namespace etl"),
        ({"rules": 1}, r"map rules: .* the ruleset of etl/etl/dag0/load and 0 more \(\d+ rows\)"),
        ({"assignments": 1}, "map endpoints: 2 entries are needed"),
    ],
)
def test_capacity_names_map_need_limit_and_contributor(limits: dict[str, int], text: str) -> None:
    nets = [CidrPeer(ip_network(f"20.{i}.0.0/16")) for i in range(3)]
    snapshot = cluster([policy(0, *nets, ports=(PortMatch(6, 443),))], 2)
    want = whole(snapshot)
    check_capacity(want, LARGE, snapshot)
    with pytest.raises(CapacityError, match=text):
        check_capacity(want, replace(LARGE, **limits), snapshot)


def test_an_event_that_changes_no_port_walks_no_rows() -> None:
    """200,000 rows cost half a second at each event of a pod."""
    snapshot = bench.cluster(300, 20, 200)
    compiler = Compiler()
    compiler.update(snapshot)
    rows = compiler._registry._rows
    walks = 0

    class Watched(dict[Any, Any]):
        def items(self) -> Any:
            nonlocal walks
            walks += 1
            return super().items()

    rows._groups = Watched(rows._groups)
    new = replace(bench.pod(301, team=1), uid=PodUid("new"), node="here")
    compiler.update(replace(snapshot, pods=snapshot.pods.set(new.uid, new)), Changes(pods=frozenset([new.uid])))
    assert walks == 0
