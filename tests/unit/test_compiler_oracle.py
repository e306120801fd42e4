"""The kernel's lookup over what the compiler wrote says what the semantics say, for every probe (P1-P16)."""

from __future__ import annotations

from random import Random

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.judge.judge import judge
from agent.model.cluster import Cluster
from agent.model.verdict import Direction, EndpointState, Verdict
from tests.unit import clusters, native_clusters

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a smaller seed is not a simpler cluster


def assert_agrees(compiler: Compiler, cluster: Cluster) -> None:
    want = compiler.want
    for uid, assignment in want.assignments.items():
        for direction in Direction:
            for address in clusters.ADDRESSES:
                for protocol, port in clusters.PROBES:
                    got = lookup(want, uid, direction, address, protocol, port)
                    should = judge(cluster, cluster.pods[uid], direction, address, protocol, port)
                    named = compiler.rule_refs.get(got.rule)
                    assert (got.verdict, got.reason, named) == (should.verdict, should.reason, should.rule), (
                        f"{uid} {direction.name} {address} {protocol}/{port}: {should}"
                    )
        assert (assignment.state is EndpointState.MANAGED) == (assignment.ruleset != 0)


def assert_agrees_by_name(r: Random, compiler: Compiler, cluster: Cluster, names: frozenset[str]) -> int:
    """How many verdicts the names have changed. Of several names any may be the one whose rule is named."""
    want, lifted = compiler.want, 0
    for uid in want.assignments:
        for address in r.sample(clusters.ADDRESSES, 6):
            for protocol, port in r.sample(clusters.PROBES, 6):
                probe = (Direction.EGRESS, address, protocol, port)
                plain, got = lookup(want, uid, *probe), lookup(want, uid, *probe, names)
                should = judge(cluster, cluster.pods[uid], *probe, names=names)
                named = compiler.rule_refs.get(got.rule)
                same = (got.verdict, got.reason) == (should.verdict, should.reason)
                assert same, f"{uid} {probe} {names}: {got} {should}"
                assert named == should.rule or len(names) > 1, f"{uid} {probe} {names}: {named} {should.rule}"
                assert lookup(want, uid, Direction.INGRESS, *probe[1:], names) == lookup(
                    want, uid, Direction.INGRESS, *probe[1:]
                ), "a name is nobody's who opens to us"
                lifted += got.verdict is not plain.verdict
    return lifted


def assert_agrees_by_what_is_carried(
    r: Random, compiler: Compiler, cluster: Cluster, names: frozenset[str]
) -> set[str]:
    """What hellos and requests came to. Of several rules any may be the one that is named, and what is denied, or
    audited, whatever is carried has its reason before anything is."""
    want, found = compiler.want, set()
    for uid in want.assignments:
        for address in r.sample(clusters.ADDRESSES, 8):
            for port in r.sample(clusters.PROBED_PORTS[6], 3):
                probe = (Direction.EGRESS, address, 6, port)
                for carried in (*r.sample(clusters.HELLOS, 4), *(clusters.request(r) for _ in range(6))):
                    got = lookup(want, uid, *probe, names, carried)
                    should = judge(cluster, cluster.pods[uid], *probe, names=names, carries=carried)
                    allowed = lookup(want, uid, *probe, names).verdict is Verdict.ALLOW
                    same = got.verdict is should.verdict and (got.reason is should.reason or not allowed)
                    assert same, f"{uid} {probe} {names} {carried}: {got} {should}"
                    found.add(f"{got.verdict.name} {got.reason.name}")
    return found


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_lookup_by_what_is_carried_is_the_semantics(seed: int) -> None:
    r = Random(seed)
    cluster = native_clusters.cluster(r)
    compiler = Compiler()
    compiler.update(cluster)
    for names in (frozenset[str](), frozenset(r.sample(clusters.KNOWN_NAMES, 2))):
        assert_agrees_by_what_is_carried(r, compiler, cluster, names)


def test_what_is_carried_changes_verdicts_at_all() -> None:
    found, r = set[str](), Random(1)
    reasons = (
        "NO_TLS",
        "SERVER_NAME",
        "NO_SERVER_NAME",
        "ENCRYPTED_HELLO",
        "START_TLS",
        "NO_HTTP",
        "REQUEST",
        "UPGRADE",
    )
    sought = {"AUDIT NO_TLS", "AUDIT REQUEST", *(f"DENY {reason}" for reason in reasons)}
    for seed in range(300):
        cluster = native_clusters.cluster(Random(seed))
        compiler = Compiler()
        compiler.update(cluster)
        found |= assert_agrees_by_what_is_carried(r, compiler, cluster, frozenset({"api.example.org"}))
        if sought <= found:
            return
    raise AssertionError(f"or the test above compares little: {sorted(sought - found)} never came")


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_lookup_is_the_semantics(seed: int) -> None:
    cluster = native_clusters.cluster(Random(seed))
    compiler = Compiler()
    compiler.update(cluster)
    assert_agrees(compiler, cluster)


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_lookup_by_names_is_the_semantics(seed: int) -> None:
    r = Random(seed)
    cluster = native_clusters.cluster(r)
    compiler = Compiler()
    compiler.update(cluster)
    for name in clusters.KNOWN_NAMES:
        assert_agrees_by_name(r, compiler, cluster, frozenset({name}))
    assert_agrees_by_name(r, compiler, cluster, frozenset(r.sample(clusters.KNOWN_NAMES, 3)))


def test_names_change_verdicts_at_all() -> None:
    changed, r = 0, Random(1)
    for seed in range(60):
        cluster = native_clusters.cluster(Random(seed))
        compiler = Compiler()
        compiler.update(cluster)
        changed += assert_agrees_by_name(r, compiler, cluster, frozenset({"api.example.org"}))
    assert changed, "or the test above compares nothing"
