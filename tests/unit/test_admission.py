"""What is too big is refused by name; what is in force stays, and everybody else's changes go on (P17)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Network, ip_address

import pytest
from immutables import Map

from agent.compiler.admission import Admission
from agent.compiler.capacity import Limits, check_capacity
from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.compiler.shares import Excess, excess
from agent.errors import CapacityError, TooMuch
from agent.model.changes import EVERYTHING, Changes, between
from agent.model.cluster import Cluster, Node, Pod
from agent.model.identity import Kind, PodUid
from agent.model.policy import CidrPeer, FqdnPeer, PodPeer, Policy, PolicyRef, Rule, ServicePeer, Subject
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction, Verdict
from agent.model.want import Want
from agent.sync.intake import Intake
from bench import worst

BIG = Limits(100_000, 100_000, 200_000, 10_000)


def intake(limits: Limits = BIG) -> Intake:
    return Intake(lambda want, cluster: check_capacity(want, limits, cluster), limits.rules)


def passes(compiler: Compiler, uid: str, address: str, port: int) -> bool:
    found = lookup(compiler.want, PodUid(uid), Direction.EGRESS, ip_address(address), 6, port)
    return found.verdict is Verdict.ALLOW


def small_is_in_force(compiler: Compiler) -> bool:
    return passes(compiler, "u99999", "192.0.2.1", 5432) and not passes(compiler, "u99999", "192.0.2.1", 80)


@pytest.mark.parametrize(
    ("name", "refused", "text"),
    [
        (
            "300 networks inside of one at 999 ports, 1 pod",
            "TaskNetworkPolicy/etl/big",
            "rows of map rules",
        ),
        ("5,000 NotIn podSelectors, 1,000 pods", "NetworkPolicy/etl/n", "conditions on peers"),
        ("10,000 tasks peers, 1,000 pods", "TaskNetworkPolicy/etl/t", "conditions on peers"),
    ],
)
def test_the_offender_is_refused_before_it_costs_and_nobody_else_is(name: str, refused: str, text: str) -> None:
    gate, snapshot, start = intake(), worst.INPUTS[name](), time.process_time()
    compiler, _ = gate.compiled(snapshot)
    assert time.process_time() - start < 5, "they took 7 to 47 s"
    (error,) = gate.errors()
    assert (error.obj, error.field) == (refused, "spec")
    assert text in error.problem
    assert "no version of it is in force" in error.problem
    assert small_is_in_force(compiler)


def test_pods_that_come_later_do_not_pay_for_it_again() -> None:
    gate = intake()
    snapshot = worst.INPUTS["300 networks inside of one at 999 ports, 1 pod"]()
    compiler, taken = gate.compiled(snapshot)
    new = replace(worst.pod(7), namespace="zz")
    more = replace(snapshot, pods=snapshot.pods.set(new.uid, new))
    same, _, deltas = gate.steps(compiler, taken, more, Changes(pods=frozenset([new.uid])))
    assert same is compiler, "nothing is compiled anew"
    assert new.uid in deltas[0].assignments
    assert passes(compiler, new.uid, "192.0.2.1", 5432)


def test_the_version_in_force_stays_and_a_smaller_one_is_taken() -> None:
    ref = PolicyRef("etl", "TaskNetworkPolicy", "big")
    good = worst.one("big", worst.rule("r", (worst.cidr("198.51.100.0/24"),), 443))
    gate, before = intake(), worst.cluster(1, good)
    compiler, taken = gate.compiled(before)
    bad = worst.INPUTS["300 networks inside of one at 999 ports, 1 pod"]()
    compiler, taken, _ = gate.steps(compiler, taken, bad, between(before, bad))
    assert taken.policies[ref] == good
    assert "the version before stays in force" in gate.errors()[0].problem
    assert passes(compiler, "u00000", "198.51.100.1", 443)
    assert small_is_in_force(compiler)
    better = worst.cluster(1, worst.one("big", worst.rule("r", (worst.cidr("203.0.113.0/24"),), 443)))
    compiler, taken, _ = gate.steps(compiler, taken, better, between(bad, better))
    assert gate.errors() == ()
    assert passes(compiler, "u00000", "203.0.113.1", 443)


def test_what_was_refused_beside_another_is_taken_when_that_goes() -> None:
    many = [worst.one(f"p{i:04}", worst.rule("r", (worst.hole(i),), 443), dags=(f"dag{i}",)) for i in range(60)]
    small = replace(BIG, rules=2_000)
    gate, snapshot = intake(small), worst.cluster(60, *many)
    compiler, taken = gate.compiled(snapshot)
    refused = {error.obj for error in gate.errors()}
    assert 0 < len(refused) < 60
    assert small_is_in_force(compiler)
    fewer = worst.cluster(60, *many[:20])
    gate.steps(compiler, taken, fewer, EVERYTHING)
    assert gate.errors() == ()


def test_a_pod_that_does_not_fit_is_left_out_and_the_others_come() -> None:
    """What is in force is never given up for it; without rules it stays pending, which lets nothing out."""
    many = [worst.one(f"p{i:04}", worst.rule("r", (worst.hole(i),), 443), dags=(f"dag{i}",)) for i in range(40)]
    gate = intake(replace(BIG, rules=700))
    snapshot = worst.cluster(8, *many)
    compiler, taken = gate.compiled(snapshot)
    assert gate.errors() == ()
    crowd: Cluster = worst.cluster(40, *many)
    late = replace(crowd, pods=snapshot.pods.update(dict(crowd.pods.items())))
    compiler, taken, _ = gate.steps(compiler, taken, late, between(snapshot, late))
    assert gate.errors()[0].obj.startswith("Pod/")
    assert taken.policies == late.policies
    assert PodUid("u00039") not in compiler.want.assignments
    assert small_is_in_force(compiler)
    other = replace(worst.pod(50), namespace="zz")
    last = replace(late, pods=late.pods.set(other.uid, other))
    compiler, taken, _ = gate.steps(compiler, taken, last, Changes(pods=frozenset([other.uid])))
    assert passes(compiler, other.uid, "192.0.2.1", 5432)


def test_a_restart_refuses_nothing_that_was_in_force() -> None:
    """It may have grown with the pods since it was taken: without it more would pass."""
    many = [worst.one(f"p{i:04}", worst.rule("r", (worst.hole(i),), 443), dags=(f"dag{i}",)) for i in range(40)]
    gate = intake(replace(BIG, rules=500))
    before, after = worst.cluster(4, *many), worst.cluster(12, *many)
    gate.compiled(before)
    assert gate.errors() == ()
    fresh = intake(replace(BIG, rules=500))
    fresh.admission.digests = dict(gate.admission.digests)
    compiler, taken = fresh.compiled(after)
    assert taken.policies == after.policies
    left_out = {error.obj for error in fresh.errors()}
    assert left_out, "the newest pods wait instead, and nothing leaves them"
    assert all(obj.startswith("Pod/") for obj in left_out)
    assert passes(compiler, "u00000", "198.51.100.1", 443)
    assert small_is_in_force(compiler)
    forgetful = intake(replace(BIG, rules=500))
    forgetful.compiled(after)
    assert forgetful.errors(), "what was not in force is refused where it does not fit"


def test_where_nobody_new_is_to_blame_the_revision_is_refused() -> None:
    """Nodes: no tenant makes them."""
    nodes = {f"n{i}": Node(f"n{i}", (ip_address(f"172.16.0.{i}"),)) for i in range(9)}
    with pytest.raises(CapacityError, match="map hosts"):
        intake(replace(BIG, hosts=8)).compiled(replace(worst.cluster(3), nodes=Map(nodes)))


def test_pods_that_find_no_room_in_map_endpoints_wait() -> None:
    gate = intake(replace(BIG, assignments=3))
    compiler, _ = gate.compiled(worst.cluster(6))
    assert len(compiler.want.assignments) <= 3
    assert all(error.obj.startswith("Pod/") for error in gate.errors())
    assert small_is_in_force(compiler), "the newest of the namespace that has most wait"


def cidrs(namespace: str, name: str, first: str, count: int) -> Policy:
    """A policy that selects nobody, and names so many addresses one by one."""
    start = int(ip_address(first))
    peers = tuple(CidrPeer(IPv4Network((start + i, 32))) for i in range(count))
    rules = (worst.rule("r", peers),)
    return Policy(PolicyRef(namespace, "TaskNetworkPolicy", name), Subject(dag_ids=("nobody",)), rules)


def test_the_cluster_s_own_ranges_are_nobody_s_to_have() -> None:
    """Twelve policies that together had as many CIDRs as the map has entries left none for metadata and the like:
    the whole revision was refused, and so was each one after it, whoever's."""
    limit = 1_000
    gate = intake(replace(BIG, peers=limit))
    many = [cidrs(ns, f"p{i}", f"20.{n}.{i}.0", 83) for n, ns in enumerate(("ta", "tb")) for i in range(6)]
    compiler, _ = gate.compiled(worst.cluster(3, *many))
    assert len(compiler.want.peers) <= limit
    assert {error.obj.split("/")[1] for error in gate.errors()} <= {"ta", "tb"}
    assert small_is_in_force(compiler)


def test_two_greedy_namespaces_keep_no_newcomer_out() -> None:
    """In force up to the brim, a stranger's first policy of one CIDR was too big, for as long as they liked (P17)."""
    gate = intake(replace(BIG, peers=10_000))
    many = [cidrs(ns, f"p{i}", f"2{n}.{i}.0.0", 1_000) for n, ns in enumerate(("ta", "tb")) for i in range(6)]
    snapshot = worst.cluster(3, *many)
    compiler, taken = gate.compiled(snapshot)
    assert gate.errors(), "they may not have all of it"
    new = cidrs("newcomer", "mine", "198.51.100.7", 30)
    more = replace(snapshot, policies=snapshot.policies.set(new.ref, new))
    compiler, taken, _ = gate.steps(compiler, taken, more, EVERYTHING)
    assert new.ref in taken.policies
    assert {error.obj.split("/")[1] for error in gate.errors()} <= {"ta", "tb"}


class WrongEstimate:
    """A map that holds less than anybody foresaw."""

    def __init__(self, what: str, count: Callable[[Want], int], most: int, needs: Mapping[PolicyRef, int]) -> None:
        self.what, self.count, self.most, self.needs = what, count, most, needs

    def __call__(self, want: Want, _cluster: Cluster) -> None:
        found = self.count(want)
        if found > self.most:
            raise TooMuch(
                self.what, self.needs, self.most, f"{self.what}: {found}, {self.most} fit", found - self.most
            )


def test_where_the_estimate_was_too_low_whoever_has_most_is_refused_and_nobody_else() -> None:
    """Whatever admission has not foreseen: the revision of everybody else goes on."""
    many = [cidrs("ta", f"p{i}", f"20.0.{i}.0", 50 + i) for i in range(6)]
    needs = {policy.ref: 1 for policy in many}
    gate = Intake(WrongEstimate("CIDRs and exceptions", lambda want: len(want.peers), 250, needs))
    compiler, taken = gate.compiled(worst.cluster(3, *many))
    refused = {error.obj for error in gate.errors()}
    assert 0 < len(refused) < 6, "no more than it takes"
    assert len(compiler.want.peers) <= 250
    assert small_is_in_force(compiler)
    edited = worst.cluster(4, *many)
    compiler, taken, _ = gate.steps(compiler, taken, edited, between(taken, edited))
    assert {error.obj for error in gate.errors()} == refused, "the same, without the work"
    assert PodUid("u00003") in compiler.want.assignments


def test_where_all_of_it_is_in_force_the_revision_before_stays() -> None:
    many = [cidrs("ta", f"p{i}", f"20.0.{i}.0", 50) for i in range(3)]
    limit = WrongEstimate("CIDRs and exceptions", lambda want: len(want.peers), 1_000, {})
    gate = Intake(limit)
    compiler, taken = gate.compiled(worst.cluster(3, *many))
    limit.most, limit.needs = 10, {policy.ref: 50 for policy in many}
    with pytest.raises(CapacityError):
        gate.steps(compiler, taken, worst.cluster(4, *many), EVERYTHING)


def patterns(policies: int, dag: str, pattern: str, kind: Kind = Kind.KUBERNETES_EXECUTOR) -> Cluster:
    """100 pods with ids that are as long as ids may be, and policies of 1,000 patterns each that nearly match."""
    subjects = (tuple(f"{pattern}*{i}b{n}" for i in range(1000)) for n in range(policies))
    rules = (worst.rule("r", (worst.cidr("20.0.0.1/32"),), 443),)
    found = worst.cluster(100, *(worst.one(f"p{n:02}", *rules, dags=dags) for n, dags in enumerate(subjects)))
    pods = {
        uid: with_dag(pod, f"{dag}{uid[-4:]}", kind) if pod.namespace == "etl" else pod
        for uid, pod in found.pods.items()
    }
    return replace(found, pods=Map(pods))


def with_dag(pod: Pod, dag: str, kind: Kind) -> Pod:
    ambiguous = kind is Kind.KUBERNETES_POD_OPERATOR
    identity = replace(pod.claim.identity, dag_id=dag, kind=kind, ambiguous=ambiguous)
    return replace(pod, claim=replace(pod.claim, identity=identity))


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(lambda: patterns(60, "a" * 240, "*a" * 118), id="many stars"),
        pytest.param(lambda: patterns(60, "a" * 240, "*a"), id="short ones"),
        pytest.param(
            lambda: patterns(60, f"{'a' * 48}-01234", "*a" * 118, Kind.KUBERNETES_POD_OPERATOR), id="hashes"
        ),
    ],
)
def test_patterns_of_subjects_stall_nobody(snapshot: Callable[[], Cluster]) -> None:
    """Sixty policies of a thousand patterns, held against a hundred long ids: minutes, at any edit of anybody."""
    gate, given, start = intake(), snapshot(), time.process_time()
    compiler, taken = gate.compiled(given)
    edited = replace(given, policies=given.policies.set(*small(port=5433)))
    compiler, taken, _ = gate.steps(compiler, taken, edited, EVERYTHING)
    assert time.process_time() - start < 10
    assert gate.errors()
    assert all("conditions on subjects" in error.problem for error in gate.errors())
    assert passes(compiler, "u99999", "192.0.2.1", 5433)


def small(port: int) -> tuple[PolicyRef, Policy]:
    name = PolicyRef("zz", "TaskNetworkPolicy", "small")
    return name, Policy(name, Subject(), (worst.rule("db", (worst.cidr("192.0.2.1/32"),), port),))


def test_pods_that_come_to_policies_in_force_cost_little_each() -> None:
    """Where there are no pods yet, nothing is held against any: what a pod will cost is bounded by itself."""
    gate = intake()
    full = patterns(60, "a" * 240, "*a" * 118)
    none = replace(full, pods=Map({uid: pod for uid, pod in full.pods.items() if pod.namespace == "zz"}))
    compiler, taken = gate.compiled(none)
    assert gate.errors(), "not even where nothing is selected yet"
    start = time.process_time()
    changes = Changes(pods=frozenset(full.pods))
    gate.steps(compiler, taken, replace(taken, pods=full.pods), changes)
    assert time.process_time() - start < 10


def test_two_snapshots_that_are_too_much_together_are_compiled_one_after_the_other() -> None:
    """Each CIDR of the one lies in each of the other: 1.4 GB, where either takes 100 MB."""
    narrow = worst.cluster(3, *(cidrs("ta", f"p{i}", f"20.{i}.0.0", 4_000) for i in range(2)))
    wide = worst.INPUTS["300 holes, 300 pods"]()
    for before, after in ((narrow, wide), (wide, narrow)):
        gate = intake()
        compiler, taken = gate.compiled(before)
        compiler, _, deltas = gate.steps(compiler, taken, after, between(taken, after))
        assert deltas is None
        assert gate.errors() == ()
        assert small_is_in_force(compiler)


def peers_without_rows(policies: int, count: int) -> Cluster:
    """100 pods with a small policy each, and policies of so many peers that hold for nobody."""

    def peer(n: int, i: int) -> PodPeer:
        return PodPeer("etl", None, LabelSelector((Requirement("k", Operator.IN, (f"v{n}-{i}",)),)))

    small = (worst.rule("r", (worst.cidr("20.0.0.1/32"),), 443),)
    every = [
        worst.one(f"big{n}", worst.rule("r", tuple(peer(n, i) for i in range(count)), 1)) for n in range(policies)
    ]
    return worst.cluster(100, *every, *(worst.one(f"s{i}", *small, dags=(f"dag{i}",)) for i in range(100)))


def test_peers_that_make_no_rows_are_counted_for_each_ruleset() -> None:
    """Two policies of 10,000 peers and 100 rulesets took more than 512 MiB and 26 s; nothing was refused."""
    gate, start = intake(), time.process_time()
    compiler, _ = gate.compiled(peers_without_rows(2, 10_000))
    assert time.process_time() - start < 10
    assert [error.obj for error in gate.errors()] == ["TaskNetworkPolicy/etl/big0", "TaskNetworkPolicy/etl/big1"]
    assert "terms of rules, times the rulesets here" in gate.errors()[0].problem
    assert passes(compiler, "u00001", "20.0.0.1", 443)
    assert small_is_in_force(compiler)


def test_pods_that_come_to_terms_in_force_wait() -> None:
    """As with rows: what is in force is not refused, and a stranger's pod finds room."""
    gate, full = intake(), peers_without_rows(1, 2_000)
    few = replace(
        full, pods=Map({uid: pod for uid, pod in full.pods.items() if uid < "u00010" or pod.namespace == "zz"})
    )
    compiler, taken = gate.compiled(few)
    assert gate.errors() == ()
    compiler, taken, _ = gate.steps(compiler, taken, full, Changes(pods=frozenset(full.pods)))
    assert {error.obj.split("/")[0] for error in gate.errors()} == {"Pod"}
    new = replace(worst.pod(50_000), namespace="zz")
    more = replace(full, pods=full.pods.set(new.uid, new))
    compiler, taken, _ = gate.steps(compiler, taken, more, Changes(pods=frozenset([new.uid])))
    assert passes(compiler, new.uid, "192.0.2.1", 5432)


def test_policies_of_very_many_peers_are_refused_where_they_select_nobody() -> None:
    gate, start = intake(), time.process_time()
    many = [
        worst.one(
            f"p{n:02}", worst.rule("r", tuple(ServicePeer("etl", f"v{n}-{i}") for i in range(9_000))), dags=("x",)
        )
        for n in range(40)
    ]
    compiler, _ = gate.compiled(worst.cluster(3, *many))
    assert time.process_time() - start < 10
    assert len(gate.errors()) > 20
    assert all("terms" in error.problem for error in gate.errors())
    assert small_is_in_force(compiler)


def ref(namespace: str, name: str) -> PolicyRef:
    return PolicyRef(namespace, "TaskNetworkPolicy", name)


def test_the_greediest_namespace_pays_first_and_in_it_the_greatest() -> None:
    needs = {ref("a", "x"): 20, ref("a", "y"): 25, ref("a", "z"): 10, ref("b", "x"): 11, ref("c", "x"): 11}
    assert excess(needs, 100, ()) == {ref("a", "y"): Excess(25, 50, "the objects of namespace a")}
    assert excess(needs, 76, ()) == {
        ref("a", "x"): Excess(20, 19, "one object"), ref("a", "y"): Excess(25, 19, "one object"),
    }  # fmt: skip
    most = {ref(n, p): 18 for n in "abc" for p in "xy"}
    assert list(excess(most, 100, ())) == [ref("a", "x"), ref("b", "x")]


def test_a_quarter_is_kept_for_those_that_have_little() -> None:
    """A 256th each; what the others have beyond that must fit into the rest."""
    large = {ref(n, p): 190 for n in "ab" for p in "xy"}
    assert excess(large, 1024, ()) == {}
    crowd = {ref(f"n{i}", "x"): 4 for i in range(50)}
    assert excess(large | crowd, 1024, ()) == {}
    more = large | crowd | {ref("c", "x"): 40}
    assert excess(more, 1024, large) == {ref("c", "x"): Excess(40, 768, "all that have more than 4 together")}
    assert excess(large | {ref("c", "x"): 4}, 1024, large) == {}


def test_what_is_in_force_is_never_refused() -> None:
    needs = {ref("a", "x"): 90, ref("b", "x"): 20}
    assert list(excess(needs, 100, {ref("a", "x")})) == [ref("b", "x")]
    assert excess(needs, 100, needs) == {}


def test_the_same_whatever_the_order() -> None:
    needs = {ref(n, p): 10 + i for i, (n, p) in enumerate((n, p) for n in "abcd" for p in "xyz")}
    assert excess(needs, 60, ()) == excess(dict(reversed(needs.items())), 60, ())


def test_thousands_of_refusals_cost_no_more_than_a_moment() -> None:
    needs = {ref(f"n{i % 50}", f"p{i}"): 100 + i % 7 for i in range(20_000)}
    start = time.process_time()
    assert excess(needs, 10_000, ())
    assert time.process_time() - start < 2


def named(ref: PolicyRef, count: int) -> Policy:
    peers = tuple(FqdnPeer(f"*.n{i}.{ref.name}.example") for i in range(count))
    return Policy(ref, Subject(), egress=(Rule("names", Direction.EGRESS, peers, None),))


def test_names_that_do_not_fit_are_refused_by_whoever_has_most() -> None:
    """A wildcard takes two entries of map `names`: its own, and that of the name it stands below."""
    big, small = PolicyRef("etl", "TaskNetworkPolicy", "big"), PolicyRef("zz", "TaskNetworkPolicy", "small")
    policies = Map({big: named(big, 2_000), small: named(small, 10)})
    gate = intake()
    compiler, _ = gate.compiled(replace(worst.cluster(1), policies=policies))
    (error,) = gate.errors()
    assert (error.obj, error.field) == (str(big), "spec")
    assert (
        "it needs 4,000 DNS names, and names that wildcards stand below, one object may have 3,500" in error.problem
    )
    assert len(compiler.want.names) == 20


def test_a_kernel_that_cannot_judge_names_takes_no_policy_that_has_some() -> None:
    """P18: it never weakens to a policy without them."""
    ref, other = PolicyRef("etl", "TaskNetworkPolicy", "p"), PolicyRef("etl", "TaskNetworkPolicy", "q")
    policies = Map({ref: named(ref, 1), other: Policy(other, Subject(), egress=())})
    gate = Intake(lambda *_: None, BIG.rules, Admission(names=0))
    compiler, taken = gate.compiled(replace(worst.cluster(1), policies=policies))
    (error,) = gate.errors()
    assert error.problem == "names peers by fqdn, which this kernel cannot learn safely: it lacks feature netns_owner"
    assert set(taken.policies) == {other}
    assert not compiler.want.names
