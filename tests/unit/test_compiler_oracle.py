"""The kernel's lookup over what the compiler wrote says what the semantics say, for every probe (P1-P16)."""

from __future__ import annotations

from random import Random

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.judge.judge import judge
from agent.model.cluster import Cluster
from agent.model.verdict import Direction, EndpointState
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


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_lookup_is_the_semantics(seed: int) -> None:
    cluster = native_clusters.cluster(Random(seed))
    compiler = Compiler()
    compiler.update(cluster)
    assert_agrees(compiler, cluster)
