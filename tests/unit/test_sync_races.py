"""What a packet meets on the way: any program may run, stall and cache a verdict between two single writes (P10).

The model of the kernel: a program reads its endpoint's epoch first, then one map after the other, each at any later
moment, but ends within the next grace period; what it allows is cached under the epoch that it read, and passes
without a judgement for as long as that epoch is the endpoint's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from random import Random

import pytest
from immutables import Map

from agent.model.changes import between
from agent.model.cluster import Cluster, Namespace, Pod, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import DefaultPosture, PodPeer, Policy, PolicyRef, Rule, Subject
from agent.model.selector import LabelSelector, Operator, Requirement
from agent.model.verdict import Direction
from agent.sync.allocate import IdentityNumbers
from agent.sync.intake import Intake
from agent.sync.plan import Carrier, Plan
from agent.sync.writer import Writer
from tests.unit import clusters
from tests.unit.dictmaps import DictMaps, History, Lookup, Program, Write, current_epoch, passes
from tests.unit.test_sync_plan import PROBES, folders

RUNS = 12
"""Runs of a program for each lookup and revision."""


class Node:
    """A writer, its maps, and the folders of every pod that a history may have."""

    def __init__(self, r: Random, was: Cluster, places: dict[str, int]) -> None:
        self.r, self.places, self.cluster = r, places, was
        self.maps = DictMaps()
        self.writer = Writer(self.maps, IdentityNumbers(), Intake(lambda *_: None))
        self.writer.start(was, list(places.items()))  # type: ignore[arg-type]

    def revision(self, now: Cluster, step: Callable[[], object], lookups: list[Lookup] | None = None) -> list[str]:
        """What goes wrong while `step` writes and after it."""
        before = self.maps.contents()
        self.maps.take_journal()
        step()
        self.cluster = now
        self.made_room = _made_room(self.maps.journal)
        history = History(before, self.maps.take_journal())
        random = ((cgroup, self.r.choice(PROBES)) for cgroup in self.places.values() for _ in range(60))
        lookups = list(random) if lookups is None else lookups
        return [wrong for each in lookups for wrong in self._run(history, each)]

    def _run(self, history: History, lookup: Lookup) -> list[str]:
        cgroup, _ = lookup
        was = passes(At(history, 0), *lookup)
        will = passes(At(history, history.end), *lookup)
        if was is None or will is None or will:
            return []
        current = current_epoch(history, cgroup)
        wrong = []
        for _ in range(RUNS):
            program = Program(history, self.r, cgroup)
            began = program.moment
            if passes(program, *lookup) is not True:
                continue
            if not was:
                wrong.append(f"{lookup}: passed from write {began} to {program.moment}, though both deny it")
            if program.epoch == current:
                wrong.append(f"{lookup}: its verdict of write {began} to {program.moment} is still current")
        return wrong


def _made_room(journal: list[Write]) -> bool:
    """Did something go before anything came?"""
    first = next((value for name, _, value in journal if name in {"rules", "peers", "hosts"}), b"")
    return first is None


class At:
    """The maps at one moment."""

    def __init__(self, history: History, moment: int) -> None:
        self._history, self._moment = history, moment

    def get(self, name: str, key: bytes) -> bytes | None:
        return self._history.get(name, key, self._moment)


def on_one_node(cluster: Cluster) -> Cluster:
    """An agent's node is the same for as long as it runs, and a pod never moves to another one."""
    nodes = {uid: "there" if uid in ("u3", "u6") else "here" for uid in cluster.pods}
    pods = Map({uid: replace(pod, node=nodes[uid]) for uid, pod in cluster.pods.items()})
    return replace(cluster, complete=True, pods=pods, settings=replace(cluster.settings, node="here"))


def history_of(seed: int, revisions: int, objects: int) -> list[str]:
    """A random history: so many revisions, each of so many changed objects."""
    r = Random(seed)
    snapshots = [on_one_node(clusters.cluster(r))]
    for _ in range(revisions):
        now = snapshots[-1]
        for _ in range(objects):
            now = clusters.changed(r, now)
        snapshots.append(on_one_node(now))
    node = Node(r, snapshots[0], folders(*snapshots))
    found = []
    for was, now in pairwise(snapshots):
        changes = between(was, now)
        assert node.writer.differing(whole=True) == {}, "the maps say what was written, and the writer knows it"
        found += node.revision(now, lambda now=now, changes=changes: node.writer.update(now, changes))  # type: ignore[misc]
    return [f"seed {seed}: {each}" for each in found]


HISTORIES = int(os.environ.get("RACE_HISTORIES", "12"))
"""How many of each kind; `make attack` asks for more."""


def test_one_object_at_a_time() -> None:
    assert not [each for seed in range(HISTORIES) for each in history_of(seed, 3, 1)][:5]


def test_several_objects_at_once() -> None:
    assert not [each for seed in range(HISTORIES) for each in history_of(seed, 2, 4)][:5]


def test_a_first_list_after_a_restart_and_a_resync() -> None:
    found = []
    for seed in range(HISTORIES):
        r = Random(seed)
        was = on_one_node(clusters.cluster(r))
        now = on_one_node(clusters.changed(r, clusters.changed(r, was)))
        node = Node(r, was, folders(was, now))
        claims = {uid: pod.claim for uid, pod in was.pods.items() if pod.node == "here"}
        writer = Writer(node.maps, IdentityNumbers(), Intake(lambda *_: None), claims)
        found += node.revision(now, lambda w=writer, n=now, p=node.places: w.start(n, list(p.items())))  # type: ignore[misc]
        found += node.revision(now, writer.resync)
    assert not found[:5]


@pytest.mark.parametrize("crowded", [("rules",), ("peers", "hosts")], ids=str)
def test_old_and_new_that_have_no_room_beside_one_another(crowded: tuple[str, ...]) -> None:
    """Maps that hold the one and the other, and not both: what goes has to go first."""
    found, tight = [], 0
    for seed in range(HISTORIES):
        r = Random(seed)
        was = on_one_node(clusters.cluster(r))
        now = on_one_node(clusters.changed(r, clusters.changed(r, was)))
        node, roomy = (Node(r, was, folders(was, now)) for _ in range(2))
        roomy.writer.update(now, between(was, now))
        for name in crowded:
            room = max(len(each.maps[name].entries) for each in (node, roomy))
            node.maps[name].room = node.writer.entries[name] = room
        found += node.revision(now, lambda n=node, b=was, a=now: n.writer.update(a, between(b, a)))  # type: ignore[misc]
        for name in ("rules", "peers", "hosts"):
            assert node.maps[name].entries == roomy.maps[name].entries, (seed, name)
        tight += node.made_room
        found += node.revision(now, node.writer.resync)
    assert not found[:5]
    assert tight, "some of them had no room"


def test_a_policy_goes_while_a_pod_that_it_allowed_appears() -> None:
    """Of two objects that change at once, no packet may see one and not the other where that lets it pass."""
    r = Random(1)
    claim = Claim(Identity("c", "etl", "sa", "dag", "t", Kind.KUBERNETES_EXECUTOR), ())
    here = Pod(PodUid("a"), "etl", "a", claim, addresses=(ip_address("10.0.0.1"),), node="here")
    there = Pod(
        PodUid("b"),
        "etl",
        "b",
        replace(claim, labels=(("app", "b"),)),
        (("app", "b"),),
        (ip_address("10.0.0.2"),),
        node="there",
    )
    selector = LabelSelector((Requirement("app", Operator.IN, ("b",)),))
    ref = PolicyRef("etl", "TaskNetworkPolicy", "p")
    allows = Policy(ref, Subject(), egress=(Rule("r", Direction.EGRESS, (PodPeer("etl", None, selector),), None),))
    was = Cluster(
        complete=True,
        pods=Map({here.uid: here}),
        namespaces=Map({"etl": Namespace("etl", managed=True, default_posture=DefaultPosture.DENY)}),
        policies=Map({ref: allows}),
        settings=Settings(node="here"),
    )
    now = replace(was, pods=was.pods.set(there.uid, there), policies=was.policies.delete(ref))
    for before, after in ((was, now), (replace(now, pods=was.pods), replace(was, pods=now.pods)), (now, was)):
        node = Node(r, before, {here.uid: 1000})
        found = node.revision(
            after, lambda n=node, b=before, a=after: n.writer.update(a, between(b, a)),  # type: ignore[misc]
            [(1000, (Direction.EGRESS, ip_address("10.0.0.2"), 6, 80))] * 200,
        )  # fmt: skip
        assert not found[:3]


def test_the_model_sees_programs_that_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sync.plan.Carrier._wait_for_readers_of", lambda *_: None)
    assert any(history_of(seed, 3, 2) for seed in range(100))


def test_the_model_sees_epochs_that_come_early(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Carrier.apply

    def early(carrier: Carrier, plan: Plan) -> None:
        plan.questions, plan.closing = plan.closing, []
        apply(carrier, plan)

    monkeypatch.setattr(Carrier, "apply", early)
    assert any(history_of(seed, 3, 2) for seed in range(150))


def test_the_model_sees_addresses_that_go_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the endpoints have their new rulesets, which may let reach what an address was."""
    monkeypatch.setattr("agent.sync.plan._ADDRESSES", frozenset())
    assert any(history_of(seed, 2, 4) for seed in (241, *range(150)))
