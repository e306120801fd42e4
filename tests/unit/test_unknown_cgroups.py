"""Cgroups that the kernel asks about: when the tree is searched for them, and when they are given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.identity import PodUid
from agent.node.folders import Folders
from agent.node.unknown import SEARCH_SHARE, UnknownCgroups
from tests.unit.fake_kernel import Clock
from tests.unit.node_parts import container_folder
from tests.unit.test_flows_join import EVENT

A = PodUid("a")
COST = 0.5


class Asked:
    """A search takes half a second, and finds what a test has hidden."""

    def __init__(self, mount: Path) -> None:
        self.clock, self.folders = Clock(), Folders()
        self.unknown = UnknownCgroups(self.folders, mount, self.clock)
        self.searches, self.hidden = 0, 0

    def ask(self, cgroup_id: int) -> None:
        self.unknown.ask(replace(EVENT, cgroup_id=cgroup_id, ancestors=(0, 0)))
        self.unknown.answer(self.search)

    def search(self) -> None:
        self.searches += 1
        self.clock.now += COST
        if self.hidden:
            self.folders.add(container_folder(A, self.hidden))


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_a_search_costs_one_twentieth_of_the_thread_s_time_at_most(asked: Asked) -> None:
    asked.ask(1)
    asked.ask(2)
    asked.clock.now += SEARCH_SHARE * COST - 0.1
    asked.ask(3)
    assert asked.searches == 1
    assert asked.unknown, "two wait"
    asked.clock.now += 0.2
    asked.unknown.answer(asked.search)
    assert (asked.searches, bool(asked.unknown)) == (2, False)


def test_what_a_search_finds_is_not_logged(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    asked.hidden = 1
    asked.ask(1)
    assert (asked.searches, bool(asked.unknown)) == (1, False)
    assert not caplog.records


def test_at_most_ten_cgroups_of_one_search_are_logged(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    asked.unknown.due = asked.clock.now + 1
    for cgroup in range(1, 15):
        asked.ask(cgroup)
    asked.clock.now += 1
    asked.unknown.answer(asked.search)
    assert len(caplog.records) == 10
    assert not asked.unknown
