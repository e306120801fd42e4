"""Totals as they are read from the kernel's maps when somebody asks: identities, denials, losses, fill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.abi.structs import DENIAL, DENIAL_KEY, EPOCH, IDENTITY_COUNTS, IDENTITY_TOTALS, SLOT, U32, U64
from agent.model.identity import FIRST_IDENTITY, IdentityNumber
from agent.model.node_state import NodeState
from agent.model.policy import RuleRef
from agent.model.report import Totals
from agent.model.verdict import Direction, DropReason, Loss, Verdict
from agent.model.want import RuleId
from agent.node.folding import Folding
from agent.node.totals import TotalsReader, clear_identities, unknown_numbers
from agent.sync.allocate import OVERFLOW_IDENTITY
from tests.unit.fake_kernel import FakeKernel
from tests.unit.seen import NUMBER, POLICIES, STATE, endpoint

RULE = RuleRef(POLICIES[0], "deny")
FACTS = endpoint()


def state() -> NodeState:
    return replace(
        STATE, by_slot={3: FACTS, 4: FACTS}, numbers={FACTS.identity: IdentityNumber(NUMBER)}, rules={RuleId(9): RULE}
    )


class Counted:
    """A kernel that has counted something."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.reader = TotalsReader(
            self.kernel.maps, Folding(self.kernel.maps["denials"]), lambda: {"events_unread": 5}
        )

    def read(self) -> Totals:
        return self.reader.read(state())

    def deny(self, slot: int, packets: int, *, rule: int = 0, identity: int = NUMBER) -> None:
        key = DENIAL_KEY.pack(
            slot=slot, rule=rule, identity=identity, reason=DropReason.NO_RULE, direction=Direction.EGRESS,
            verdict=Verdict.DENY,
        )  # fmt: skip
        self.kernel.maps["denials"].put(key, DENIAL.pack(packets=packets, bytes=packets * 60))

    def count(self, number: int, packets: int) -> None:
        each = IDENTITY_COUNTS.pack(sent_packets=packets, sent_bytes=packets * 100)
        value = each + bytes(IDENTITY_TOTALS.size - len(each))
        self.kernel.maps["identities"].put(U32.pack(value=number - FIRST_IDENTITY), value)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_a_kernel_that_has_counted_nothing(counted: Counted) -> None:
    totals = counted.read()
    assert [(row.number, row.endpoints, row.sent_bytes) for row in totals.identities] == [(NUMBER, 2, 0)]
    assert totals.denials == ()
    assert set(totals.losses) == {loss.name.lower() for loss in Loss} | {"events_unread"}
    assert totals.resident_bytes > 1_000_000


def test_an_identity_s_totals(counted: Counted) -> None:
    counted.count(NUMBER, 7)
    (row,) = counted.read().identities
    assert (row.sent_packets, row.sent_bytes, row.namespace, row.dag_id) == (7, 700, "airflow", "finance")


def test_denials_of_slots_that_had_the_same_identity_are_one_row(counted: Counted) -> None:
    counted.deny(3, 2)
    counted.deny(4, 5)
    counted.deny(4, 1, rule=9)
    counted.deny(4, 1, rule=77)
    rows = counted.read().denials
    assert {(row.rule, row.packets, row.bytes) for row in rows} == {(None, 8, 480), (RULE, 1, 60)}


def test_losses_are_by_reason(counted: Counted) -> None:
    counted.kernel.maps["losses"].put(U32.pack(value=int(Loss.RING_FULL)), U64.pack(value=3))
    losses = counted.read().losses
    assert (losses["ring_full"], losses["flows_full"], losses["events_unread"]) == (3, 0, 5)


def test_how_full_flows_is_follows_from_what_came_and_went(counted: Counted) -> None:
    counted.kernel.maps["slots"].put(U32.pack(value=1), SLOT.pack(inserted=(10, 4)))
    counted.kernel.maps["epochs"].put(U32.pack(value=1), EPOCH.pack(evicted=(3, 1)))
    counted.kernel.maps["pending"].put(U64.pack(value=9), U64.pack(value=1))
    assert {fill.name: fill.used for fill in counted.read().fill} == {"flows": 10, "denials": 0, "pending": 1}


def test_a_number_is_cleared_before_another_identity_has_it(counted: Counted) -> None:
    """What was denied under it goes to the overflow's sum (I6)."""
    counted.count(NUMBER, 7)
    counted.deny(0, 4)
    clear_identities(counted.kernel.maps, counted.reader.folding, [NUMBER])
    totals = counted.read()
    assert totals.identities[0].sent_packets == 0
    assert [(row.identity, row.packets) for row in totals.denials] == [(OVERFLOW_IDENTITY, 4)]


def test_numbers_that_the_state_folder_has_lost_are_found(counted: Counted) -> None:
    counted.count(NUMBER, 7)
    counted.count(NUMBER + 1, 7)
    counted.deny(0, 4, identity=NUMBER + 2)
    counted.deny(0, 4, identity=OVERFLOW_IDENTITY)
    found = unknown_numbers(counted.kernel.maps, counted.reader.folding, [NUMBER])
    assert found == [NUMBER + 1, NUMBER + 2]
