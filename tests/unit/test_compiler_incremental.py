"""Incremental is whole: after any events Want is what one compile makes of the last snapshot, but for numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields
from random import Random
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.model.changes import between
from agent.model.verdict import Direction, Verdict
from agent.model.want import Delta, RulesetId, Want
from tests.unit import clusters, native_clusters

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a smaller seed is not a simpler cluster

MAPS = ("peers", "hosts", "names", "servers", "parts", "rules", "rulesets", "assignments")


def canonical(compiler: Compiler) -> dict[str, Any]:
    """Want with contents in the place of numbers: a class is the addresses that have it as peer class and as base
    class, a rule its name, a ruleset its defaults and rows."""
    want = compiler.want
    where = [*want.peers.items(), *want.hosts.items()]
    peer_class = _inverse([(c.peer, at) for at, c in where] + [(c.base, ("base", at)) for at, c in where])
    rows: dict[RulesetId, set[Any]] = {number: set() for number in want.rulesets}
    for key, value in want.rules.items():
        named = (value.verdict, value.reason, compiler.rule_refs.get(value.rule))
        row = (peer_class.get(key.peer_class, "none"), key.ports, key.direction, named)
        rows[key.ruleset].add(row)
    content = {0: "none"} | {
        number: (
            frozenset(rows[number]),
            ruleset.sockets,
            tuple((d.verdict, d.reason, compiler.rule_refs.get(d.rule)) for d in ruleset.defaults),
        )
        for number, ruleset in want.rulesets.items()
    }
    return {
        "addresses": {at: (peer_class.get(c.peer), peer_class.get(c.base)) for at, c in where},
        "rulesets": sorted(map(hash, content.values())),
        "assignments": {
            uid: (a.identity, a.state, content[a.ruleset], a.host_network) for uid, a in want.assignments.items()
        },
    }


def _inverse(pairs: list[tuple[Any, Hashable]]) -> dict[Any, Any]:
    found: dict[Any, set[Hashable]] = {}
    for number, at in pairs:
        found.setdefault(number, set()).add(at)
    return {number: frozenset(at) for number, at in found.items() if number}


def copied(want: Want) -> Want:
    return Want(**{name: dict(getattr(want, name)) for name in MAPS})


def applied(want: Want, delta: Delta) -> Want:
    after = copied(want)
    for name in MAPS:
        entries = getattr(after, name)
        for key, value in getattr(delta, name).items():
            if value is None:
                del entries[key]
            else:
                entries[key] = value
    return after


def passing(want: Want, uid: Any) -> set[Any]:
    return {
        (direction, address, probe)
        for direction in Direction
        for address in clusters.ADDRESSES
        for probe in clusters.PROBES
        if lookup(want, uid, direction, address, *probe).verdict is not Verdict.DENY
    }


def assert_covers(delta: Delta, before: Want, after: Want) -> None:
    """An endpoint that keeps its state and its ruleset and loses something has it in `revoked` (P10)."""
    for uid, assignment in after.assignments.items():
        old = before.assignments.get(uid)
        if old is None or old.host_network != assignment.host_network:  # which no pod ever changes
            continue
        if old.addresses != assignment.addresses:  # its entry changes, and with it the epoch
            continue
        if old.state != assignment.state:  # unmanaged and quarantined ones have no ruleset
            continue
        if old.ruleset == assignment.ruleset and assignment.ruleset not in delta.revoked:
            assert passing(before, uid) <= passing(after, uid)


def assert_no_number_means_two_things(delta: Delta, before: Want) -> None:
    """The kernel applies additions before deletions: what this step frees, it does not give away."""
    gone = {number for number, value in delta.rulesets.items() if value is None}
    assert not gone & {key.ruleset for key, value in delta.rules.items() if value is not None}
    old = {c for entry in (*before.peers.values(), *before.hosts.values()) for c in (entry.peer, entry.base)}
    new = {c for entry in (*delta.peers.values(), *delta.hosts.values()) if entry for c in (entry.peer, entry.base)}
    for key, value in delta.rules.items():
        if value is not None and key.ruleset in before.rulesets and key.peer_class in old & new:
            # an old pair of numbers may get rows for ports that were not told apart before, never another meaning
            assert before.rules.get(key) in (None, value)


def run(seed: int, steps: int, check: Callable[[Delta, Want, Want], None]) -> tuple[Compiler, Compiler]:
    r = Random(seed)
    cluster = native_clusters.cluster(r)
    compiler = Compiler()
    compiler.update(cluster)
    for _ in range(steps):
        before = copied(compiler.want)
        after = cluster
        for _ in range(r.choice((1, 1, 1, 3))):
            after = native_clusters.changed(r, after)
        delta = compiler.update(after, between(cluster, after) if r.random() < 0.5 else None)
        cluster = after
        check(delta, before, compiler.want)
    fresh = Compiler()
    fresh.update(cluster)
    return compiler, fresh


def assert_delta(delta: Delta, before: Want, after: Want) -> None:
    assert applied(before, delta) == after
    for name in MAPS:
        old = getattr(before, name)
        assert all(old.get(key) != value for key, value in getattr(delta, name).items()), "only what changed"
    assert {f.name for f in fields(Want)} == set(MAPS)


@given(st.integers(0, 10**9))
@settings(max_examples=100, deadline=None, phases=PHASES)
def test_incremental_is_whole_and_delta_says_so(seed: int) -> None:
    def check(delta: Delta, before: Want, after: Want) -> None:
        assert_delta(delta, before, after)
        assert_no_number_means_two_things(delta, before)

    compiler, fresh = run(seed, 6, check)
    assert canonical(compiler) == canonical(fresh)


@given(st.integers(0, 10**9))
@settings(max_examples=30, deadline=None, phases=PHASES)
def test_revoked_covers_every_loss(seed: int) -> None:
    run(seed, 3, assert_covers)
