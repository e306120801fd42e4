"""Folders that are there: levels of the programs' lookup, roots, and containers that nobody guards."""

from __future__ import annotations

from agent.model.identity import PodUid
from agent.node.folders import DEFAULT_LEVELS, Folders
from agent.sources.cgroups import ContainerFolder, PodFolder, RootFolder

A, B = PodUid("a"), PodUid("b")
ROOT = RootFolder("/kubepods", 1, 1)


def pod(uid: PodUid, cgroup_id: int, level: int, root: str = "/kubepods") -> PodFolder:
    return PodFolder(uid, f"/{cgroup_id}", cgroup_id, level, root)


def container(uid: PodUid, cgroup_id: int, root: str = "/kubepods") -> ContainerFolder:
    return ContainerFolder(uid, "c", f"/{cgroup_id}", cgroup_id, 4, root)


def test_without_pods_the_levels_are_the_defaults_of_the_two_drivers() -> None:
    folders = Folders()
    assert folders.levels() == DEFAULT_LEVELS
    folders.add(pod(A, 10, 2))
    assert folders.levels() == (2, 3)


def test_levels_follow_where_most_pods_are() -> None:
    folders = Folders()
    for n in range(3):
        folders.add(pod(A, 10 + n, 5))
    folders.add(pod(B, 20, 7))
    folders.add(pod(B, 21, 7))
    folders.add(pod(B, 22, 9))
    assert folders.levels() == (5, 7)
    for n in range(3):
        folders.remove(pod(A, 10 + n, 5))
    assert folders.levels() == (7, 9)
    for cgroup_id, level in ((20, 7), (21, 7), (22, 9)):
        folders.remove(pod(B, cgroup_id, level))
    assert folders.levels() == DEFAULT_LEVELS


def test_a_container_counts_as_its_pods_folder_but_not_for_the_levels() -> None:
    folders = Folders()
    folders.add(ROOT)
    folders.add(pod(A, 10, 3))
    folders.add(container(A, 11))
    assert folders.pods == {10: A, 11: A}
    assert folders.roots == {1: ROOT}
    assert folders.levels() == (3, 2)
    folders.remove(container(A, 11))
    folders.remove(container(A, 11))
    assert folders.pods == {10: A}
    assert folders.levels() == (3, 2)


def test_removing_a_folder_that_was_never_added_changes_nothing() -> None:
    folders = Folders()
    folders.remove(pod(A, 10, 6))
    folders.add(pod(A, 10, 6))
    folders.remove(pod(A, 10, 6))
    folders.remove(pod(A, 10, 6))
    assert folders.levels() == DEFAULT_LEVELS


def test_containers_outside_of_every_root_are_named_by_pod() -> None:
    folders = Folders()
    folders.add(pod(A, 10, 3, root=""))
    assert folders.unguarded_pods() == []  # a folder without a container has no packets
    folders.add(container(B, 31, root=""))
    folders.add(container(A, 30, root=""))
    folders.add(container(A, 32, root=""))
    assert folders.unguarded_pods() == [A, B]
    assert folders.pods == {}
    for cgroup_id in (30, 32):
        folders.remove(container(A, cgroup_id, root=""))
    assert folders.unguarded_pods() == [B]


def test_a_removed_root_is_no_root() -> None:
    folders = Folders()
    folders.add(ROOT)
    folders.remove(ROOT)
    assert folders.roots == {}
