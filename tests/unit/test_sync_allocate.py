"""Numbers of identities and endpoint slots."""

from __future__ import annotations

import pytest

from agent.abi.structs import ENDPOINT_SLOTS, IDENTITY_SLOTS
from agent.errors import CapacityError
from agent.model.identity import FIRST_IDENTITY, Identity, IdentityNumber, Kind
from agent.sync.allocate import OVERFLOW_IDENTITY, IdentityNumbers, Slots


def identity(n: int) -> Identity:
    return Identity("c", "ns", "sa", f"dag{n}", "t", Kind.KUBERNETES_EXECUTOR)


def test_equal_identities_share_a_number_that_outlives_its_users() -> None:
    numbers = IdentityNumbers()
    first = numbers.acquire(identity(1))
    assert first == FIRST_IDENTITY + 1
    assert numbers.acquire(identity(1)) == first
    assert numbers.acquire(identity(2)) == first + 1
    assert numbers.users(identity(1)) == 2
    for _ in range(2):
        numbers.release(identity(1))
    assert numbers.users(identity(1)) == 0
    assert numbers.acquire(identity(1)) == first


def test_known_numbers_are_kept_and_new_ones_come_after_them() -> None:
    numbers = IdentityNumbers({identity(1): IdentityNumber(FIRST_IDENTITY + 7)})
    assert numbers.acquire(identity(1)) == FIRST_IDENTITY + 7
    assert numbers.acquire(identity(2)) == FIRST_IDENTITY + 8
    assert dict(numbers.snapshot()) == {identity(1): FIRST_IDENTITY + 7, identity(2): FIRST_IDENTITY + 8}
    assert numbers.take_changes() == {identity(2): FIRST_IDENTITY + 8}
    assert numbers.take_changes() == {}


def test_when_numbers_run_out_the_longest_unused_goes_and_then_there_is_the_overflow() -> None:
    numbers = IdentityNumbers()
    given = [numbers.acquire(identity(n)) for n in range(IDENTITY_SLOTS - 1)]
    assert len(set(given)) == IDENTITY_SLOTS - 1
    assert numbers.acquire(identity(-1)) == OVERFLOW_IDENTITY
    numbers.release(identity(5))
    numbers.release(identity(3))
    assert numbers.acquire(identity(-2)) == given[5]
    assert numbers.acquire(identity(-1)) == given[3]
    assert OVERFLOW_IDENTITY not in given


def test_a_number_is_cleared_before_another_identity_has_it() -> None:
    cleared: list[int] = []
    numbers = IdentityNumbers(cleared=cleared.extend)
    given = [numbers.acquire(identity(n)) for n in range(IDENTITY_SLOTS - 1)]
    numbers.release(identity(7))
    assert cleared == [], "as long as there are others"
    reused = numbers.acquire(identity(-1))
    assert reused == given[7]
    assert cleared == [reused]


def test_numbers_that_the_state_folder_has_lost_are_cleared_as_well() -> None:
    cleared: list[int] = []
    known = {identity(1): IdentityNumber(FIRST_IDENTITY + IDENTITY_SLOTS - 1)}
    numbers = IdentityNumbers(known, cleared.extend)
    assert numbers.acquire(identity(2)) == FIRST_IDENTITY + 1
    assert FIRST_IDENTITY + 1 in cleared
    assert known[identity(1)] not in cleared


def test_the_number_that_was_used_last_is_taken_last() -> None:
    numbers = IdentityNumbers()
    for n in range(IDENTITY_SLOTS - 1):
        numbers.acquire(identity(n))
    for n in (*range(70, 0, -1), 0):  # the first that came is the last that went
        numbers.release(identity(n))
    taken = {numbers.acquire(identity(-n)) for n in range(1, 65)}
    assert FIRST_IDENTITY + 1 not in taken


def test_slots_that_are_taken_are_known_to_other_threads() -> None:
    slots = Slots({3})
    before = slots.taken
    slot = slots.take()
    assert (set(before), set(slots.taken)) == ({3}, {3, slot})
    slots.give_back(3)
    assert set(slots.taken) == {slot}


def test_slots_are_taken_once_and_zero_is_nobodys() -> None:
    slots = Slots({1, 3})
    assert [slots.take(), slots.take()] == [2, 4]
    slots.give_back(2)
    taken = [slots.take() for _ in range(ENDPOINT_SLOTS - 5)]
    assert len(set(taken)) == len(taken)
    assert not set(taken) & {0, 1, 2, 3, 4}
    assert slots.take() == 2
    with pytest.raises(CapacityError, match="epochs"):
        slots.take()
