"""Who is a peer: pods by the labels of now, tasks by claims (I2)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from immutables import Map

from agent.compiler.compiler import Compiler
from agent.compiler.lookup import lookup
from agent.judge.judge import judge
from agent.model.binding import TaskIdentityBinding
from agent.model.changes import Changes
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import PodPeer, Policy, PolicyRef, PortMatch, Rule, Subject, TaskPeer
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction, Verdict

PRIMARY = LabelSelector((Requirement("role", Operator.IN, ("primary",)),))


def database(name: str, address: str, first: str, now: str) -> Pod:
    identity = Identity("c", "db", "pg", "", "", Kind.OTHER)
    claim = Claim(identity, (("role", first),))
    return Pod(PodUid(name), "db", name, claim, (("role", now),), (ip_address(address),))


def cluster(*databases: Pod) -> Cluster:
    task = Pod(PodUid("task"), "etl", "task", Claim(Identity("c", "etl", "etl", "d", "t", Kind.OTHER), ()))
    rule = Rule("primary", Direction.EGRESS, (PodPeer("db", None, PRIMARY),), None)
    policy = Policy(PolicyRef("etl", "TaskNetworkPolicy", "p"), Subject(), (rule,))
    return Cluster(
        pods=Map({each.uid: each for each in (task, *databases)}),
        namespaces=Map({"etl": Namespace("etl", managed=True), "db": Namespace("db")}),
        policies=Map({policy.ref: policy}),
        settings=Settings(baseline=()),
    )


def passes(compiler: Compiler, snapshot: Cluster, address: str) -> bool:
    found = lookup(compiler.want, PodUid("task"), Direction.EGRESS, ip_address(address), 6, 5432)
    said = judge(snapshot, snapshot.pods[PodUid("task")], Direction.EGRESS, ip_address(address), 6, 5432)
    assert found.verdict is said.verdict
    return found.verdict is Verdict.ALLOW


def test_after_a_failover_the_new_primary_is_the_peer() -> None:
    one, two = (database("one", "10.0.0.1", "primary", "primary"), database("two", "10.0.0.2", "replica", "replica"))
    compiler, before = Compiler(), cluster(one, two)
    compiler.update(before)
    assert (passes(compiler, before, "10.0.0.1"), passes(compiler, before, "10.0.0.2")) == (True, False)
    swapped = replace(one, labels=two.labels), replace(two, labels=one.labels)
    after = cluster(*swapped)
    delta = compiler.update(after, Changes(pods=frozenset([one.uid, two.uid])))
    assert (passes(compiler, after, "10.0.0.1"), passes(compiler, after, "10.0.0.2")) == (False, True)
    assert delta.revoked == {compiler.want.assignments[PodUid("task")].ruleset}
    late = Compiler()
    late.update(after)
    assert (passes(late, after, "10.0.0.1"), passes(late, after, "10.0.0.2")) == (False, True)


def test_a_claim_that_may_have_been_written_later_allows_nothing_unless_it_is_bound() -> None:
    """I2: after a restart no pod of another node is worth more than before; deny rules take its word."""

    def verdicts(*, late: bool, bound: bool) -> tuple[Verdict, Verdict]:
        identity = Identity("c", "db", "pg", "friend", "t", Kind.KUBERNETES_EXECUTOR)
        remote = Pod(PodUid("r"), "db", "r", Claim(identity, (), late=late), addresses=(ip_address("10.0.0.9"),))
        base = cluster(remote)
        friends = (TaskPeer(("friend",), (), "db"),)
        policy = Policy(
            PolicyRef("etl", "TaskNetworkPolicy", "p"),
            Subject(),
            (
                Rule("friend", Direction.EGRESS, friends, (PortMatch(6, 80),)),
                Rule("any", Direction.EGRESS, None, (PortMatch(6, 81),)),
            ),
            deny=(Rule("foe", Direction.EGRESS, friends, (PortMatch(6, 81),)),),
        )
        binding = TaskIdentityBinding("b", "db", ("pg",), ("friend",))
        snapshot = replace(base, policies=Map({policy.ref: policy}), bindings=Map({"b": binding} if bound else {}))
        compiler = Compiler()
        compiler.update(snapshot)
        found = []
        for port in (80, 81):
            got = lookup(compiler.want, PodUid("task"), Direction.EGRESS, ip_address("10.0.0.9"), 6, port)
            said = judge(snapshot, snapshot.pods[PodUid("task")], Direction.EGRESS, ip_address("10.0.0.9"), 6, port)
            assert got.verdict is said.verdict
            found.append(got.verdict)
        return found[0], found[1]

    assert verdicts(late=False, bound=False) == (Verdict.ALLOW, Verdict.DENY)
    assert verdicts(late=True, bound=False) == (Verdict.DENY, Verdict.DENY)
    assert verdicts(late=True, bound=True) == (Verdict.ALLOW, Verdict.DENY)
