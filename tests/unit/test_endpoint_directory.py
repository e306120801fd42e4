"""The endpoint directory: kept up step by step, it equals one that is made at once."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from immutables import Map

from agent.model.binding import TaskIdentityBinding
from agent.model.changes import EVERYTHING, Changes
from agent.model.cluster import Cluster, Escape, Namespace, Pod
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.policy import Policy, PolicyRef, Posture, Subject
from agent.model.verdict import EndpointState
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


def values(directory: EndpointDirectory) -> tuple[object, ...]:
    return directory.by_slot, directory.by_cgroup, directory.rows


def all_at_once(writer: Writer) -> EndpointDirectory:
    directory = EndpointDirectory("n1")
    directory.update(set(writer.endpoints.by_uid), writer, {})
    return directory


@pytest.mark.parametrize("seed", range(5))
def test_step_by_step_is_the_same_as_at_once(seed: int) -> None:
    r, now = Random(seed), 0.0
    writer, directory = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    known = {pod(i).uid: pod(i) for i in range(5)}
    writer.start(cluster(*known.values()), [])
    folders: dict[int, PodUid] = {}
    unpublished: set[PodUid] = set()
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
        unpublished |= changed
        if r.random() < 0.5:
            continue  # one turn of the loop may bring several changes
        directory.update(writer.endpoints.take_touched() | unpublished, writer, {})
        unpublished = set()
        whole = all_at_once(writer)
        assert (directory.by_slot, directory.by_cgroup, directory.rows) == (
            whole.by_slot,
            whole.by_cgroup,
            whole.rows,
        )
    assert directory.by_slot


def test_changed_holds_the_endpoints_that_changed() -> None:
    writer, directory = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    writer.start(cluster(pod(1), pod(2)), [(pod(1).uid, 10), (pod(2).uid, 20)])
    directory.update(writer.endpoints.take_touched(), writer, {})
    assert {facts.pod for facts in directory.changed.values()} == {"pod-1", "pod-2"}
    writer.add_folder(pod(2).uid, 21)
    directory.update(writer.endpoints.take_touched(), writer, {})
    assert [facts.pod for facts in directory.changed.values()] == ["pod-2"]
    assert directory.by_cgroup[21] == directory.by_cgroup[20]


def test_a_contradiction_is_listed_once() -> None:
    writer, directory = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    writer.start(cluster(pod(1), pod(2, contradicts=True)), [(pod(1).uid, 10), (pod(2).uid, 20)])
    seen = []
    for _ in range(2):
        directory.update(set(writer.endpoints.by_uid), writer, {})
        seen += [row.pod for row in directory.contradicting]
    assert seen == ["pod-2"]


def test_a_contradiction_that_begins_to_quarantine_is_listed_again() -> None:
    """I5: a binding that goes from audit to enforce says the same sentence."""
    claimed = pod(2)
    audit = TaskIdentityBinding("b", "etl", ("sa",), ("other",))
    writer, directory = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    writer.start(replace(cluster(claimed), bindings=Map({"b": audit})), [(claimed.uid, 20)])
    directory.update(writer.endpoints.take_touched(), writer, {})
    assert [row.state for row in directory.contradicting] == [EndpointState.MANAGED]
    enforced = replace(cluster(claimed), bindings=Map({"b": replace(audit, posture=Posture.ENFORCE)}))
    writer.update(enforced, EVERYTHING)
    directory.update(writer.endpoints.take_touched(), writer, {})
    assert [row.state for row in directory.contradicting] == [EndpointState.QUARANTINED]


@pytest.mark.parametrize(("held", "ways"), [(frozenset(), ["privileged", "NET_RAW"]), (HELD_BY_LSM, ["privileged"])])
def test_a_way_out_that_the_kernel_closes_is_not_in_the_row(held: frozenset[str], ways: list[str]) -> None:
    writer, directory = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1", held)
    writer.start(cluster(replace(pod(1), escapes=(Escape("privileged"), Escape("NET_RAW")))), [(pod(1).uid, 10)])
    directory.update({pod(1).uid}, writer, {})
    (row,) = directory.rows.values()
    assert [escape.way for escape in row.escapes] == ways


def test_a_row_names_the_policies_that_select_the_pod() -> None:
    """Also of one in quarantine, which has no ruleset, and of a policy that changes no verdict."""
    refs = [PolicyRef("etl", "TaskNetworkPolicy", name) for name in ("all", "none", "silent")]
    every = Policy(refs[0], Subject(), egress=())
    other = Policy(refs[1], Subject(dag_ids=("other",)), egress=())
    silent = Policy(refs[2], Subject())
    binding = TaskIdentityBinding("b", "etl", ("sa",), ("other",), posture=Posture.ENFORCE)
    first = replace(cluster(pod(1)), policies=Map({every.ref: every, other.ref: other}))
    writer, directory = Writer(DictMaps(), IdentityNumbers(), Intake(lambda *_: None)), EndpointDirectory("n1")
    writer.start(first, [(pod(1).uid, 10)])
    second = replace(first, policies=first.policies.set(silent.ref, silent))
    third = replace(second, bindings=Map({"b": binding}))
    seen = []
    for snapshot in (first, second, third):
        writer.update(snapshot, EVERYTHING)
        directory.update(writer.endpoints.take_touched(), writer, {})
        (row,) = directory.rows.values()
        seen.append((row.state, row.policies))
    managed, quarantined = EndpointState.MANAGED, EndpointState.QUARANTINED
    assert seen == [
        (managed, (every.ref,)), (managed, (every.ref, silent.ref)), (quarantined, (every.ref, silent.ref)),
    ]  # fmt: skip
