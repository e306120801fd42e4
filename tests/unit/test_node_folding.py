"""The kernel's `denials` stay small, and every total stays exact: also when the agent dies between any two writes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from agent.abi.structs import DENIAL, DENIAL_KEY
from agent.errors import MapError
from agent.node.folding import Folding
from agent.sync.allocate import OVERFLOW_IDENTITY as OVERFLOW

ONE, TWO = OVERFLOW + 1, OVERFLOW + 2


class DeadError(Exception):
    """The agent was killed."""


@dataclass
class Kernel:
    """`denials`, and how many more writes its agent lives for."""

    entries: int = 1000
    content: dict[bytes, bytes] = field(default_factory=dict)
    lives: int = 1 << 30

    def count(self, slot: int, identity: int, packets: int, rule: int = 1) -> None:
        """As a program does; False in the kernel's `losses` where it is full."""
        key = DENIAL_KEY.pack(slot=slot, rule=rule, identity=identity, reason=1, verdict=0)
        before = DENIAL.unpack(self.content.get(key, bytes(DENIAL.size)))["packets"]
        assert key in self.content or len(self.content) < self.entries, "a denial is lost"
        self.content[key] = DENIAL.pack(packets=before + packets, bytes=0)

    def get(self, key: bytes) -> bytes | None:
        return self.content.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._step()
        if key not in self.content and len(self.content) >= self.entries:
            raise MapError("map denials: full")
        self.content[key] = value

    def delete(self, key: bytes) -> bool:
        self._step()
        return self.content.pop(key, None) is not None

    def items(self) -> list[tuple[bytes, bytes]]:
        return list(self.content.items())

    def _step(self) -> None:
        if self.lives == 0:
            raise DeadError
        self.lives -= 1


def by_identity(folding: Folding) -> Counter[int]:
    found: Counter[int] = Counter()
    for row in folding.totals():
        found[row.identity] += row.packets
    return found


def fold(folding: Folding, taken: set[int], used: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """Two looks: what moves must not have changed between them."""
    for _ in range(2):
        folding.fold(lambda: taken, lambda: used)


def test_ten_thousand_pods_with_four_kinds_of_denial_each_fit_and_add_up() -> None:
    kernel = Kernel(entries=256)
    folding = Folding(kernel)
    for pod in range(10_000):
        for rule in range(4):
            kernel.count(pod % 50 + 1, ONE + pod % 3, packets=1, rule=rule)
        fold(folding, taken=set())
    assert by_identity(folding) == {ONE: 4 * 3334, ONE + 1: 4 * 3333, ONE + 2: 4 * 3333}
    assert len(kernel.content) == 12


def test_entries_of_taken_slots_and_entries_that_still_change_stay() -> None:
    kernel = Kernel()
    kernel.count(1, ONE, 5)
    kernel.count(2, ONE, 7)
    kernel.count(0, 0, 3)
    folding = Folding(kernel)
    folding.fold(lambda: {1}, set)
    kernel.count(2, ONE, 1)  # a packet was still under way
    folding.fold(lambda: {1}, set)
    assert {row.slot for row in folding.totals()} == {0, 1, 2}
    fold(folding, {1})
    assert {(row.slot, row.identity, row.packets) for row in folding.totals()} == {
        (1, ONE, 5),
        (0, ONE, 8),
        (0, 0, 3),
    }


def test_an_entry_stays_if_its_slot_is_taken_during_the_fold() -> None:
    kernel = Kernel()
    kernel.count(2, ONE, 7)
    folding = Folding(kernel)
    folding.fold(set, set)
    answers = iter([set[int](), {2}])
    folding.fold(lambda: next(answers), set)
    assert [row.slot for row in folding.totals()] == [2]


@pytest.mark.parametrize("lives", range(12))
@pytest.mark.parametrize("work", ["fold", "give up"])
def test_an_agent_killed_at_any_write_loses_and_doubles_nothing(lives: int, work: str) -> None:
    kernel = Kernel()
    kernel.count(0, ONE, 100)
    for slot in (1, 2):
        kernel.count(slot, ONE, slot)
    folding = Folding(kernel)
    folding.fold(set, set)
    kernel.lives = lives
    try:
        folding.fold(set, set) if work == "fold" else folding.give_up([ONE])
    except DeadError:
        pass
    else:
        assert lives >= 8
    kernel.lives = 1 << 30
    after = Folding(kernel)
    fold(after, set())
    assert sum(by_identity(after).values()) == 103
    assert all(row.slot == 0 for row in after.totals()), "and nothing is left of the journal"


def test_folding_makes_room_in_a_full_map() -> None:
    kernel = Kernel(entries=4)
    for slot in (1, 2, 3, 4):
        kernel.count(slot, ONE, slot)
    folding = Folding(kernel)
    fold(folding, set())
    assert by_identity(folding) == {ONE: 10}


def test_many_sums_of_unused_identities_become_one() -> None:
    kernel = Kernel(entries=400)
    for number in range(1, 200):
        kernel.count(0, OVERFLOW + number, number)
    kernel.count(3, ONE, 1)
    folding = Folding(kernel)
    fold(folding, {3}, used={ONE})
    assert by_identity(folding) == {ONE: 2, OVERFLOW: sum(range(2, 200))}


def test_a_reused_number_starts_without_denials() -> None:
    kernel = Kernel()
    kernel.count(0, ONE, 5)
    kernel.count(4, ONE, 6, rule=9)
    kernel.count(4, TWO, 7)
    folding = Folding(kernel)
    folding.give_up([ONE])
    assert by_identity(folding) == {OVERFLOW: 11, TWO: 7}


@pytest.mark.parametrize("seed", range(20))
def test_totals_never_go_back_whatever_happens(seed: int) -> None:
    choose, kernel = random.Random(seed), Kernel(entries=200)
    folding, taken, said = Folding(kernel), set[int](), 0
    for _ in range(400):
        slot = choose.randrange(1, 8)
        if choose.random() < 0.5:
            taken ^= {slot}
        if slot in taken:
            kernel.count(slot, ONE + choose.randrange(8), choose.randrange(5), choose.randrange(3))
        kernel.lives = choose.choice([3, 20, 1 << 30])
        try:
            folding.fold(taken.copy, lambda: {ONE})
        except DeadError:
            kernel.lives = 1 << 30
            folding = Folding(kernel)
        now = sum(by_identity(folding).values())
        assert now >= said
        said = now
