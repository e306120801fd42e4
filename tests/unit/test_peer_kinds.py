"""Kinds of peers: one that nobody decides can neither compile nor be judged in silence."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, cast, get_args

import pytest
from immutables import Map

from agent.compiler.compiler import Compiler
from agent.judge.judge import judge
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import Peer, Policy, PolicyRef, Rule, Subject
from agent.model.verdict import Direction
from agent.parse.fields import Field
from agent.parse.peer_kinds import PEER_KINDS
from agent.parse.peers import Scope
from agent.semantics.peers import namespace_named, reads_pods
from tests.unit.dictmaps import DictMaps
from tests.unit.test_sync_writer import started

REF = PolicyRef("etl", "TaskNetworkPolicy", "p")
POD = Pod(
    PodUid("a"), "etl", "a", Claim(Identity("c", "etl", "sa", "dag", "t", Kind.KUBERNETES_EXECUTOR), ()), node="n"
)


class StrangePeer:
    """Of a kind that a later version has."""


STRANGE = cast("Peer", StrangePeer())
EXAMPLES: dict[str, Any] = {
    "cidr": "10.0.0.0/8", "service": {"name": "db"}, "pods": {"podSelector": {}}, "tasks": {"dagIds": ["d"]},
    "entity": "world", "fqdn": "*.example.org",
}  # fmt: skip


def with_rule(*, denies: bool) -> Cluster:
    rule = Rule("r", Direction.EGRESS, (STRANGE,), None)
    policy = Policy(REF, Subject(), deny=(rule,)) if denies else Policy(REF, Subject(), egress=(rule,))
    return Cluster(
        complete=True,
        pods=Map({POD.uid: POD}),
        namespaces=Map({"etl": Namespace("etl", managed=True)}),
        policies=Map({REF: policy}),
        settings=Settings(node="n"),
    )


@pytest.mark.parametrize("denies", [False, True])
def test_a_kind_that_nobody_decides_cannot_compile(denies: bool) -> None:
    with pytest.raises(AssertionError, match="StrangePeer"):
        Compiler().update(with_rule(denies=denies))


@pytest.mark.parametrize("denies", [False, True])
def test_nor_does_it_reach_a_map(denies: bool) -> None:
    maps = DictMaps()
    with pytest.raises(AssertionError, match="StrangePeer"):
        started(maps, with_rule(denies=denies))
    assert maps.journal == []


@pytest.mark.parametrize("denies", [False, True])
def test_nor_is_it_judged(denies: bool) -> None:
    with pytest.raises(AssertionError, match="StrangePeer"):
        judge(with_rule(denies=denies), POD, Direction.EGRESS, ip_address("192.0.2.1"), 6, 80)


def test_readers_that_ask_one_thing_of_a_kind_know_every_one() -> None:
    for ask in (reads_pods, namespace_named):
        with pytest.raises(AssertionError, match="StrangePeer"):
            ask(STRANGE)


def test_the_table_reads_every_kind_that_a_policy_can_have() -> None:
    made = {
        type(kind.parse(Field("o", "to[0]", {kind.name: EXAMPLES[kind.name]}), Scope("etl", names=True)))
        for kind in PEER_KINDS
    }
    assert made == set(get_args(Peer))
