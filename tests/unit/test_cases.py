"""The shared cases before both judges that need no kernel: the compiled rows, and the semantics word for word."""

from __future__ import annotations

import pytest

from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.judge.judge import judge
from tests import caselib

CASES = caselib.load()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled(case: caselib.Case) -> None:
    compiler = Compiler()
    cluster = caselib.cluster(case)
    compiler.update(cluster)
    uids = {f"{pod.namespace}/{pod.name}": uid for uid, pod in cluster.pods.items()}
    for e in case.expect:
        got = lookup(compiler.want, uids[e.endpoint], e.direction, e.peer, e.protocol, e.port)
        assert (got.verdict, got.reason) == (e.verdict, e.reason), e
        if e.rule is not None:
            assert str(compiler.rule_refs.get(got.rule, "")) == e.rule, e


@pytest.mark.parametrize("case", CASES, ids=str)
def test_judged(case: caselib.Case) -> None:
    cluster = caselib.cluster(case)
    pods = {f"{pod.namespace}/{pod.name}": pod for pod in cluster.pods.values()}
    for e in case.expect:
        got = judge(cluster, pods[e.endpoint], e.direction, e.peer, e.protocol, e.port)
        assert (got.verdict, got.reason) == (e.verdict, e.reason), e
        if e.rule is not None:
            assert str(got.rule or "") == e.rule, e


def test_every_case_says_what_it_is_about() -> None:
    assert all(case.semantics and case.expect for case in CASES)
    assert len({str(case) for case in CASES}) == len(CASES)
