"""What others are told of endpoints: kept up step by step, it says what a look at everything would."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from immutables import Map

from agent.app.rows import not_covered, unenforceable
from agent.kernel.probe import Features
from agent.model.binding import TaskIdentityBinding
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import Posture
from agent.node.directory import HELD_BY_LSM, EndpointDirectory
from agent.sync.allocate import IdentityNumbers
from agent.sync.endpoints import LINGER_SECONDS
from agent.sync.intake import Intake
from agent.sync.writer import Writer
from tests.unit.dictmaps import DictMaps


def pod(number: int, *, contradicts: bool = False) -> Pod:
    identity = Identity("c", "etl", "sa", "dag", f"t{number % 3}", Kind.KUBERNETES_EXECUTOR)
    claim = Claim(identity, (), contradictions=("labels and annotations differ",) if contradicts else ())
    return Pod(uid=PodUid(f"u{number}"), namespace="etl", name=f"pod-{number}", claim=claim)


def cluster(*pods: Pod) -> Cluster:
    namespaces = Map({"etl": Namespace("etl", managed=True)})
    return Cluster(complete=True, pods=Map({p.uid: p for p in pods}), namespaces=namespaces)


def all_at_once(writer: Writer) -> EndpointDirectory:
    told = EndpointDirectory("n1")
    told.update(set(writer.endpoints.by_uid), writer, {})
    return told


@pytest.mark.parametrize("seed", range(5))
def test_step_by_step_is_the_same_as_at_once(seed: int) -> None:
    r, now = Random(seed), 0.0
    writer, told = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    known = {pod(i).uid: pod(i) for i in range(5)}
    writer.start(cluster(*known.values()), [])
    folders: dict[int, PodUid] = {}
    untold: set[PodUid] = set()
    for _ in range(300):
        number, now = r.randrange(12), now + r.random() * LINGER_SECONDS / 20
        uid, folder, changed = PodUid(f"u{number}"), number * 4 + r.randrange(3), frozenset[PodUid]()
        match r.choice(("folder", "no folder", "pod", "no pod", "expire")):
            case "folder":
                writer.add_folder(uid, folder)
                folders[folder] = uid
            case "no folder" if folder in folders:
                writer.remove_folder(folder, now)
                del folders[folder]
            case "pod":
                known[uid] = replace(pod(number), name=f"pod-{number}-{r.randrange(3)}")
                changed = frozenset({uid})
            case "no pod" if uid in known:
                del known[uid]
                changed = frozenset({uid})
            case "expire":
                writer.expire(now)
        if changed:
            writer.update(cluster(*known.values()), Changes(pods=changed))
        untold |= changed
        if r.random() < 0.5:
            continue  # as much as a turn of the loop may bring is told at once
        told.update(writer.endpoints.take_touched() | untold, writer, {})
        untold = set()
        whole = all_at_once(writer)
        assert (told.by_slot, told.by_cgroup, told.rows) == (whole.by_slot, whole.by_cgroup, whole.rows)
    assert told.by_slot


def test_what_is_fresh_is_what_changed() -> None:
    writer, told = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    writer.start(cluster(pod(1), pod(2)), [(pod(1).uid, 10), (pod(2).uid, 20)])
    told.update(writer.endpoints.take_touched(), writer, {})
    assert {facts.pod for facts in told.fresh.values()} == {"pod-1", "pod-2"}
    writer.add_folder(pod(2).uid, 21)
    told.update(writer.endpoints.take_touched(), writer, {})
    assert [facts.pod for facts in told.fresh.values()] == ["pod-2"]
    assert told.by_cgroup[21] == told.by_cgroup[20]


def test_a_contradiction_is_told_once() -> None:
    writer, told = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    writer.start(cluster(pod(1), pod(2, contradicts=True)), [(pod(1).uid, 10), (pod(2).uid, 20)])
    seen = []
    for _ in range(2):
        told.update(set(writer.endpoints.by_uid), writer, {})
        seen += [row.pod for row in told.contradicting]
    assert seen == ["pod-2"]


def test_a_contradiction_that_begins_to_quarantine_is_told_again() -> None:
    """I5: a binding that goes from audit to enforce says the same sentence."""
    claimed = pod(2)
    audit = TaskIdentityBinding("b", "etl", ("sa",), ("other",))
    writer, told = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    writer.start(replace(cluster(claimed), bindings=Map({"b": audit})), [(claimed.uid, 20)])
    told.update(writer.endpoints.take_touched(), writer, {})
    assert [row.state for row in told.contradicting] == ["managed"]
    enforced = replace(cluster(claimed), bindings=Map({"b": replace(audit, posture=Posture.ENFORCE)}))
    writer.update(enforced, EVERYTHING)
    told.update(writer.endpoints.take_touched(), writer, {})
    assert [row.state for row in told.contradicting] == ["quarantined"]


@pytest.mark.parametrize(
    ("held", "escapes"), [(frozenset(), ("privileged", "NET_RAW")), (HELD_BY_LSM, ("privileged",))]
)
def test_what_the_kernel_holds_is_no_way_out(held: frozenset[str], escapes: tuple[str, ...]) -> None:
    writer, told = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1", held)
    writer.start(cluster(replace(pod(1), escapes=("privileged", "NET_RAW"))), [(pod(1).uid, 10)])
    told.update({pod(1).uid}, writer, {})
    (row,) = told.rows.values()
    assert row.escapes == escapes
    assert [text.split(": ")[:2] for text in unenforceable((row,))] == [["etl/pod-1", way] for way in escapes]


@pytest.mark.parametrize("there", [True, False])
def test_what_no_program_sees_depends_on_the_kernel(there: bool) -> None:
    said = not_covered(Features(set_retval=True, sockops=True, lsm_cgroup=there, skb_netns=True))
    assert any("AF_PACKET" in sentence for sentence in said) != there
    assert any("container runtime" in sentence for sentence in said)
