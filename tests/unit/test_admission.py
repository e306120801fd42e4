"""What is too big is refused by name; what is in force stays, and everybody else's changes go on (P17)."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent.compiler.capacity import Limits, check_capacity
from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.compiler.shares import Excess, excess
from agent.errors import CapacityError
from agent.model.changes import EVERYTHING, Changes, between
from agent.model.cluster import Cluster
from agent.model.identity import PodUid
from agent.model.policy import PolicyRef
from agent.model.verdict import Direction, Verdict
from agent.sync.intake import Intake
from bench import worst

BIG = Limits(100_000, 100_000, 200_000, 10_000)


def intake(limits: Limits = BIG) -> Intake:
    return Intake(lambda want, cluster: check_capacity(want, limits, cluster), limits.rules * 3 // 2)


def passes(compiler: Compiler, uid: str, address: str, port: int) -> bool:
    found = lookup(compiler.want, PodUid(uid), Direction.EGRESS, ip_address(address), 6, port)
    return found.verdict is Verdict.ALLOW


def small_is_in_force(compiler: Compiler) -> bool:
    return passes(compiler, "u99999", "192.0.2.1", 5432) and not passes(compiler, "u99999", "192.0.2.1", 80)


@pytest.mark.parametrize(
    ("name", "refused", "text"),
    [
        (
            "499 rules at 1-65535 and 501 ports, 1 pod",
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
    snapshot = worst.INPUTS["499 rules at 1-65535 and 501 ports, 1 pod"]()
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
    bad = worst.INPUTS["499 rules at 1-65535 and 501 ports, 1 pod"]()
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
    gate = intake(replace(BIG, rules=500))
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
    with pytest.raises(CapacityError, match="map endpoints"):
        intake(replace(BIG, assignments=1)).compiled(worst.cluster(3))


def ref(namespace: str, name: str) -> PolicyRef:
    return PolicyRef(namespace, "TaskNetworkPolicy", name)


def test_the_greediest_namespace_pays_first_and_in_it_the_greatest() -> None:
    needs = {ref("a", "x"): 20, ref("a", "y"): 25, ref("a", "z"): 10, ref("b", "x"): 24, ref("c", "x"): 24}
    assert excess(needs, 100, ()) == {ref("a", "y"): Excess(25, 50, "the policies of namespace a")}
    assert excess(needs, 80, ()) == {
        ref(n, p): Excess(needs[ref(n, p)], 20, "one policy") for n, p in (("a", "y"), ("b", "x"), ("c", "x"))
    }
    most = {ref(n, p): 20 for n in "abc" for p in "xy"}
    assert list(excess(most, 100, ())) == [ref("a", "x")]


def test_what_is_in_force_is_never_refused() -> None:
    needs = {ref("a", "x"): 90, ref("b", "x"): 20}
    assert list(excess(needs, 100, {ref("a", "x")})) == [ref("b", "x")]
    assert excess(needs, 100, needs) == {}


def test_the_same_whatever_the_order() -> None:
    needs = {ref(n, p): 10 + i for i, (n, p) in enumerate((n, p) for n in "abcd" for p in "xyz")}
    assert excess(needs, 60, ()) == excess(dict(reversed(needs.items())), 60, ())
