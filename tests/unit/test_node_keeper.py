"""What goes into the state folder: claims by their first sight, numbers, namespaces (I2, I6, L3, L4)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from immutables import Map

from agent.errors import StateError
from agent.model.changes import Changes
from agent.model.identity import Claim, PodUid
from agent.node.keeper import Keeper
from tests.unit.dictmaps import DictMaps
from tests.unit.node_parts import FakeFolder
from tests.unit.test_sync_writer import A, B, cluster, pod, started

GONE = PodUid("gone")


def keeper(**changes: object) -> Keeper:
    """On a node with pod A, whose folder has claims of A and of a pod that went while no agent lived."""
    claims = {A: pod(A).claim, GONE: pod(A, "old").claim}
    return Keeper(FakeFolder(), started(DictMaps(), cluster(pod(A))), claims=claims, **changes)  # type: ignore[arg-type]


def kept(of: Keeper) -> list[dict[PodUid, Claim | None]]:
    folder = of.folder
    assert isinstance(folder, FakeFolder)
    return [dict(change.claims) for change in folder.kept]


def test_the_first_time_everything_is_written_and_who_went_is_forgotten() -> None:
    of = keeper()
    of.keep()
    assert kept(of) == [{A: pod(A).claim, GONE: None}]
    assert of.claims == {A: pod(A).claim}
    of.keep()
    assert kept(of)[1] == {}


def test_before_the_first_complete_list_nobody_is_forgotten() -> None:
    of = keeper()
    of.writer.cluster = replace(of.writer.cluster, complete=False, pods=Map())
    of.keep([A, GONE])
    assert kept(of) == [{A: pod(A).claim}], "whose folder is here"
    assert GONE in of.claims


def test_a_pod_that_the_api_has_forgotten_keeps_its_claim_while_its_folder_is_here() -> None:
    """L4."""
    of = keeper()
    of.keep()
    of.writer.cluster = replace(of.writer.cluster, pods=Map())
    of.keep([A])
    assert kept(of)[1] == {A: pod(A).claim}


def test_pods_of_other_nodes_are_kept_too() -> None:
    """They may be peers by what they claim (I2)."""
    of = keeper()
    of.keep()
    of.writer.update(cluster(pod(A), replace(pod(B), node="n2")), Changes(pods=frozenset({B})))
    of.keep([B])
    assert kept(of)[1] == {B: pod(B).claim}
    of.writer.update(cluster(pod(A)), Changes(pods=frozenset({B})))
    of.keep([B])
    assert kept(of)[2] == {B: None}
    assert B not in of.claims


@pytest.mark.parametrize("known_here", [True, False])
def test_what_was_listed_before_a_restart_stays_listed(known_here: bool) -> None:
    """L3."""
    of = keeper(known_here=known_here)
    of.writer.cluster = replace(of.writer.cluster, complete=False)
    of.keep()
    assert isinstance(of.folder, FakeFolder)
    assert of.folder.kept[-1].complete is known_here


def test_namespaces_and_numbers_go_with_it() -> None:
    of = keeper()
    of.keep()
    assert isinstance(of.folder, FakeFolder)
    (change,) = of.folder.kept
    assert change.namespaces == {"etl": True}
    assert list(change.numbers) == [pod(A).claim.identity]


def test_a_disk_that_takes_nothing_is_an_error() -> None:
    of = keeper()
    assert isinstance(of.folder, FakeFolder)
    of.folder.full = True
    with pytest.raises(StateError, match="disk full"):
        of.keep()
