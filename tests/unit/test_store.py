"""Objects in, snapshots out: revisions, changes, frozen claims."""

from __future__ import annotations

import gc
import json
import tracemalloc
import uuid
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.changes import Changes, between
from agent.model.cluster import Cluster, Namespace, Pod, Service, ServiceAccount, Settings
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.parse.objects import parse_object
from agent.sources.reflector import Reflector, Resource
from agent.sources.store import KEPT_CLAIMS, KEPT_LABELS, Key, Store, key_of

UID = PodUid("u1")


def pod(uid: str = "u1", dag: str = "d", address: str = "10.0.0.1") -> Pod:
    claim = Claim(Identity("c", "ns", "default", dag, "t", Kind.KUBERNETES_EXECUTOR), ())
    return Pod(uid=PodUid(uid), namespace="ns", name=uid, claim=claim, addresses=(ip_address(address),))


def test_steps_and_revisions() -> None:
    store = Store()
    assert store.apply([pod()]) == Changes(pods=frozenset({UID}))
    assert store.snapshot.revision == 1
    assert store.apply([pod()]) == Changes()
    assert store.apply(deletes=[Key("pods", "stranger")]) == Changes()
    assert store.snapshot.revision == 1
    before = store.snapshot
    assert store.apply([pod(address="10.0.0.2")]).pods == {UID}
    assert before.pods[UID].addresses == (ip_address("10.0.0.1"),)
    assert store.apply(deletes=[key_of(pod())]).pods == {UID}
    assert store.snapshot.revision == 3
    assert not store.snapshot.pods


def test_what_is_not_a_pod_or_service_changes_everything_else() -> None:
    store = Store()
    assert store.apply([Namespace("a")]) == Changes(everything_else=True)
    assert store.apply([Service("a", "s")]) == Changes(services=frozenset({("a", "s")}))
    assert store.apply([ServiceAccount("a", "x")]) == Changes()
    assert ("a", "x") in store.snapshot.service_accounts
    assert store.snapshot.revision == 3
    assert store.apply(complete=True) == Changes(everything_else=True)
    assert store.snapshot.complete
    assert store.configure(Settings(cluster="x")) == Changes(everything_else=True)
    assert store.configure(Settings(cluster="x")) == Changes()
    assert store.snapshot.revision == 5


def test_delete_and_put_back_in_one_step_is_no_change() -> None:
    store = Store()
    store.apply([pod()])
    assert store.apply([pod()], [key_of(pod())]) == Changes()
    assert store.snapshot.revision == 1


def test_replace_all_prunes_only_the_tables_that_were_listed() -> None:
    store = Store()
    store.apply([pod("u1"), pod("u2"), Namespace("a")])
    changes = store.replace_all({key_of(pod("u2")): pod("u2")}, tables=frozenset({"pods"}))
    assert changes == Changes(pods=frozenset({UID}))
    assert list(store.snapshot.pods) == ["u2"]
    assert list(store.snapshot.namespaces) == ["a"]


def test_the_first_claim_of_a_uid_stays_even_when_the_pod_was_away() -> None:
    store = Store()
    store.apply([pod(dag="first")])
    store.apply(deletes=[key_of(pod())])
    store.apply([pod(dag="second")])
    claim = store.snapshot.pods[UID].claim
    assert claim.identity.dag_id == "first"
    assert claim.contradictions == ("dag_id would have changed from 'first' to 'second' after first sight",)
    assert store.apply([pod(dag="second")]) == Changes()


def test_claims_of_the_state_folder_count_as_first_sight() -> None:
    store = Store(claims={UID: pod(dag="remembered").claim})
    store.apply([pod(dag="now")])
    assert store.snapshot.pods[UID].claim.identity.dag_id == "remembered"


def test_claims_of_pods_that_have_gone_are_bounded() -> None:
    store = Store()
    pods = [pod(f"u{i}") for i in range(KEPT_CLAIMS + 10)]
    store.apply([*pods, pod("stays")])
    store.apply(deletes=[key_of(each) for each in pods])
    assert len(store.claims) == KEPT_CLAIMS + 1
    assert "stays" in store.claims


def test_claims_of_gone_pods_with_very_many_labels_are_fewer() -> None:
    """P17: pods of 20,000 labels, made and deleted again, would fill the agent's memory with what they claimed."""
    store = Store(claims={PodUid("old"): pod("old").claim})
    labels = tuple((f"k{i}", "v") for i in range(KEPT_LABELS // 4))
    for n in range(20):
        each = pod(f"u{n}")
        each = replace(each, claim=replace(each.claim, labels=labels))
        store.apply([each])
        store.apply(deletes=[key_of(each)])
    assert list(store.claims) == ["u16", "u17", "u18", "u19"], "the newest of them"
    back = pod("u19", dag="other")
    store.apply([back])
    assert store.snapshot.pods[back.uid].claim.identity.dag_id == "d"
    store.apply([replace(pod(f"v{n}"), claim=replace(pod().claim, labels=labels)) for n in range(9)])
    assert len(store.claims) == 13, "pods that are there keep theirs"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "10.0.0.1", "10.0.0.2"])), max_size=12))
def test_changes_are_the_difference_of_the_snapshots(steps: list[tuple[str, str | None]]) -> None:
    store, before = Store(), Cluster()
    changes = store.apply(
        [pod(uid, address=address) for uid, address in steps if address],
        [Key("pods", uid) for uid, address in steps if not address],
    )
    assert changes == between(before, store.snapshot)
    again = replace(store.snapshot, revision=0)
    more = store.apply([pod("a", address="10.0.0.3")], [Key("pods", "b")])
    assert more == between(again, store.snapshot)


def test_a_pod_costs_few_bytes() -> None:
    """10,000 pods in under 40 MB with all that is made of them: here the objects alone, of real manifests."""
    files = sorted((Path(__file__).parents[1] / "data" / "airflow").glob("pods-3.3.2-ke-*.json"))
    recorded = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    count = 2000

    def pods() -> Iterator[dict[str, Any]]:
        for number in range(count):
            text = json.dumps(recorded[number % len(recorded)])  # decoded anew, as a list of the server is
            pod = json.loads(text)
            pod["metadata"] |= {"name": f"p-{number}", "namespace": "etl", "uid": str(uuid.UUID(int=number + 1))}
            pod["metadata"]["resourceVersion"] = str(number + 1)
            yield pod

    store, reflector = Store(Cluster()), Reflector(Resource("Pod", "v1", "pods"), parse_object)
    tracemalloc.start()
    try:
        step = reflector.listing([(pods(), "9999")])
        store.apply(step.upserts, step.deletes)
        del step
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(store.snapshot.pods) == count
    assert held / count < 2200


@pytest.mark.parametrize(("age", "late"), [(0.0, False), (9.0, False), (11.0, True), (-60.0, False)])
def test_a_pod_that_is_first_seen_long_after_it_was_made_is_late(age: float, late: bool) -> None:
    """I2: who may patch it can have written its claim meanwhile. A later sight changes nothing."""
    now = [1_000_000.0]
    store = Store(clock=lambda: now[0])
    made = replace(pod(), created=now[0] - age)
    store.apply([made])
    assert store.snapshot.pods[made.uid].claim.late is late
    now[0] += 1000
    store.apply([replace(made, labels=(("team", "other"),))])
    assert store.snapshot.pods[made.uid].claim.late is late
    kept = Store(claims={made.uid: made.claim}, clock=lambda: now[0])
    kept.apply([made])
    assert not kept.snapshot.pods[made.uid].claim.late, "seen before, by the agent that kept it"
    files = Store()
    files.apply([made])
    assert not files.snapshot.pods[made.uid].claim.late, "files are trusted whenever they are read"
