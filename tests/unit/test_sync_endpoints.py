"""Which folder is which endpoint: folders come, go and come back; assignments change; an agent adopts entries."""

from __future__ import annotations

from dataclasses import replace

from agent.abi.structs import ENDPOINT, ENDPOINT_SLOTS, NEARBY_SLOTS
from agent.model.identity import Identity, Kind, PodUid
from agent.model.verdict import DropReason, EndpointState, Verdict
from agent.model.want import Assignment, Ruleset, RulesetId, RuleValue, Sockets
from agent.sync.allocate import IdentityNumbers
from agent.sync.endpoints import LINGER_SECONDS, EndpointTable

A, B = PodUid("a"), PodUid("b")
IDENTITY = Identity("c", "ns", "sa", "dag", "t", Kind.KUBERNETES_EXECUTOR)
NO_RULE = RuleValue(Verdict.DENY, DropReason.NO_RULE)
RULESETS = {RulesetId(7): Ruleset((NO_RULE, NO_RULE)), RulesetId(8): Ruleset((NO_RULE, NO_RULE), Sockets(raw=True))}
MANAGED = Assignment(IDENTITY, EndpointState.MANAGED, RulesetId(7))
UNMANAGED = Assignment(IDENTITY, EndpointState.UNMANAGED, RulesetId(0))


def table(adopted: dict[int, bytes] | None = None) -> EndpointTable:
    return EndpointTable(IdentityNumbers(), adopted)


def slot_of(raw: bytes | None) -> int:
    assert raw is not None
    return int(ENDPOINT.unpack(raw)["slot"])


def with_pod(uid: PodUid, *folders: int, assignment: Assignment = MANAGED) -> EndpointTable:
    made = table()
    made.assign(uid, assignment, RULESETS)
    for folder in folders:
        made.add_folder(uid, folder, RULESETS)
    return made


def test_two_folders_of_one_uid_are_one_endpoint() -> None:
    endpoints = with_pod(A, 10, 11)
    ops = endpoints.take_ops()
    assert ops.entries[10] == ops.entries[11]
    assert slot_of(ops.entries[10]) != 0
    assert ops.bumped == {slot_of(ops.entries[10])}
    assert ops.nearby == {10, 11}


def test_a_folder_without_an_assignment_writes_nothing_until_there_is_one() -> None:
    endpoints = table()
    endpoints.add_folder(A, 10, RULESETS)
    assert endpoints.take_ops().entries == {}
    endpoints.assign(A, MANAGED, RULESETS)
    assert set(endpoints.take_ops().entries) == {10}


def test_entries_linger_and_the_slot_is_free_only_after_the_last_folder() -> None:
    endpoints = with_pod(A, 10, 11)
    slot = slot_of(endpoints.take_ops().entries[10])
    endpoints.remove_folder(11, 0.0)
    endpoints.remove_folder(10, 1.0)
    assert endpoints.expire(LINGER_SECONDS - 1) == []
    assert endpoints.take_ops().entries == {}
    assert endpoints.expire(LINGER_SECONDS) == []
    assert endpoints.take_ops().entries == {11: None}
    assert endpoints.expire(LINGER_SECONDS + 1) == [A]
    ops = endpoints.take_ops()
    assert (ops.entries, ops.bumped) == ({10: None}, {slot})
    assert endpoints.by_uid == endpoints.by_folder == endpoints.by_slot == {}
    assert endpoints.numbers.users(IDENTITY) == 0


def test_a_folder_that_comes_back_stays() -> None:
    endpoints = with_pod(A, 10)
    endpoints.take_ops()
    endpoints.remove_folder(10, 0.0)
    endpoints.add_folder(A, 10, RULESETS)
    assert endpoints.expire(LINGER_SECONDS * 2) == []
    assert endpoints.take_ops().entries == {}


def test_the_next_holder_of_a_slot_gets_a_new_epoch() -> None:
    endpoints = with_pod(A, 10)
    first = slot_of(endpoints.take_ops().entries[10])
    endpoints.remove_folder(10, 0.0)
    endpoints.expire(LINGER_SECONDS)
    endpoints.take_ops()
    seen = set()
    for n in range(20, 6000):  # the longest free slot is taken next
        uid = PodUid(str(n))
        endpoints.assign(uid, MANAGED, RULESETS)
        endpoints.add_folder(uid, n, RULESETS)
        ops = endpoints.take_ops()
        seen |= ops.bumped
        if slot_of(ops.entries[n]) == first:
            break
    assert first in seen


def test_turning_from_unmanaged_to_managed_and_back_bumps() -> None:
    endpoints = with_pod(A, 10, assignment=UNMANAGED)
    ops = endpoints.take_ops()
    assert (slot_of(ops.entries[10]), ops.bumped) == (0, set())
    endpoints.assign(A, MANAGED, RULESETS)
    ops = endpoints.take_ops()
    slot = slot_of(ops.entries[10])
    assert slot
    assert ops.bumped == {slot}
    assert 10 in ops.nearby
    endpoints.assign(A, UNMANAGED, RULESETS)
    ops = endpoints.take_ops()
    assert ENDPOINT.unpack(ops.entries[10] or b"")["state"] == EndpointState.UNMANAGED
    assert ops.bumped == {slot}


def test_another_ruleset_bumps_and_the_same_assignment_writes_nothing() -> None:
    endpoints = with_pod(A, 10)
    slot = slot_of(endpoints.take_ops().entries[10])
    endpoints.assign(A, MANAGED, RULESETS)
    assert endpoints.take_ops().entries == {}
    endpoints.assign(A, replace(MANAGED, ruleset=RulesetId(8)), RULESETS)
    ops = endpoints.take_ops()
    assert (set(ops.entries), ops.bumped) == ({10}, {slot})
    endpoints.bump({RulesetId(7)})
    assert endpoints.take_ops().bumped == set()
    endpoints.bump({RulesetId(8)})
    assert endpoints.take_ops().bumped == {slot}


def test_a_pod_that_the_api_forgot_keeps_its_entry_while_its_folder_is_there() -> None:
    endpoints = with_pod(A, 10)
    endpoints.take_ops()
    endpoints.assign(A, None, RULESETS)
    assert endpoints.take_ops().entries == {}
    assert endpoints.by_uid[A].assignment == MANAGED


def test_adopting_writes_nothing_and_keeps_slots() -> None:
    before = with_pod(A, 10, 11)
    adopted = {k: v for k, v in before.take_ops().entries.items() if v}
    after = EndpointTable(IdentityNumbers(before.numbers.snapshot()), adopted)
    after.assign(A, MANAGED, RULESETS)
    for folder in (10, 11):
        after.add_folder(A, folder, RULESETS)
    ops = after.take_ops()
    assert (ops.entries, ops.bumped) == ({}, set())
    assert after.prune_adopted() == 0
    assert after.by_slot == before.by_slot


def test_pruning_gives_each_slot_back_once_and_never_one_in_use() -> None:
    before = with_pod(A, 10, 11)
    before.assign(B, MANAGED, RULESETS)
    before.add_folder(B, 20, RULESETS)
    before.add_folder(B, 21, RULESETS)
    free = PodUid("free")
    before.assign(free, UNMANAGED, RULESETS)
    before.add_folder(free, 30, RULESETS)
    adopted = {k: v for k, v in before.take_ops().entries.items() if v}
    after = EndpointTable(IdentityNumbers(before.numbers.snapshot()), adopted)
    after.assign(A, MANAGED, RULESETS)
    after.add_folder(A, 10, RULESETS)  # its container, 11, ended while no agent looked, and so did all of B
    assert after.prune_adopted() == 4
    assert {k for k, v in after.take_ops().entries.items() if v is None} == {11, 20, 21, 30}
    taken = []
    for n in range(100, 100 + ENDPOINT_SLOTS - 2):  # all that are left
        uid = PodUid(str(n))
        after.assign(uid, MANAGED, RULESETS)
        after.add_folder(uid, n, RULESETS)
        taken.append(after.by_uid[uid].slot)
    assert len(set(taken)) == len(taken)
    assert not set(taken) & {0, after.by_uid[A].slot}


def test_of_two_folders_with_equal_low_bits_the_first_holds_the_index() -> None:
    endpoints = with_pod(A, 10)
    endpoints.assign(B, UNMANAGED, RULESETS)
    endpoints.add_folder(B, 10 + NEARBY_SLOTS, RULESETS)
    assert endpoints.nearby_at(10)[0] == 10
    endpoints.remove_folder(10, 0.0)
    endpoints.expire(LINGER_SECONDS)
    assert 10 in endpoints.take_ops().nearby
    assert endpoints.nearby_at(10) == (0, EndpointState.PENDING, 0, 0)


def test_when_slots_run_out_what_left_first_makes_room() -> None:
    endpoints = table()
    for n in range(1, ENDPOINT_SLOTS):
        uid = PodUid(str(n))
        endpoints.assign(uid, MANAGED, RULESETS)
        endpoints.add_folder(uid, n, RULESETS)
    for n in (7, 5, 9):
        endpoints.remove_folder(n, float(n))
    endpoints.take_ops()
    for uid in (A, B):
        endpoints.assign(uid, MANAGED, RULESETS)
    endpoints.add_folder(A, 10_000, RULESETS)
    endpoints.add_folder(B, 10_001, RULESETS)
    entries = endpoints.take_ops().entries
    assert {cgroup for cgroup, value in entries.items() if value is None} == {7, 5}
    assert slot_of(entries[10_000]) != slot_of(entries[10_001])
    assert endpoints.expire(0.0) == [PodUid("7"), PodUid("5")]
    assert endpoints.expire(1e6) == [PodUid("9")]
    assert endpoints.numbers.users(IDENTITY) == ENDPOINT_SLOTS - 1 - 3 + 2
