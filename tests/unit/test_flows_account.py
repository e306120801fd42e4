"""Growth between two reads, idle entries, entries that were made again."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from agent.abi.structs import FLOW, FLOW_KEY, pack_address
from agent.flows.account import Accountant
from agent.model.flow import FlowCounts
from agent.node.flow_drain import age_seconds

MASK = 0xFFFFFFFF


def key(port: int = 443, protocol: int = 6) -> bytes:
    return FLOW_KEY.pack(
        cgroup_id=1, peer=pack_address(ip_address("192.0.2.9")), service_port=port, protocol=protocol, direction=0,
        client_port=0, pad=b"\0\0",
    )  # fmt: skip


def value(sent: int = 0, *, last: int = 100, first: int = 100, epoch: int = 1) -> bytes:
    return FLOW.pack(
        slot=1, stamp=epoch, identity=1 << 24, rule=0, last=last & MASK, first=first & MASK, verdict=1, reason=0,
        pad=b"\0" * 6, sent_packets=sent, sent_bytes=sent * 100 & (1 << 64) - 1, received_packets=0, received_bytes=0,
        connections=1,
    )  # fmt: skip


def accountant() -> Accountant:
    return Accountant(datagram_idle_ticks=50, tcp_idle_ticks=500)


def test_the_first_read_is_everything_then_only_growth() -> None:
    books = accountant()
    (first,) = books.read([(key(), value(3))], 100).growths
    assert (first.new, first.counts) == (True, FlowCounts(3, 300, 0, 0, 1))
    assert books.read([(key(), value(3))], 110).growths == []
    (second,) = books.read([(key(), value(5, last=120))], 120).growths
    assert (second.new, second.counts) == (False, FlowCounts(2, 200, 0, 0, 0))


def test_a_new_clock_or_epoch_alone_is_no_growth() -> None:
    books = accountant()
    books.read([(key(), value(3))], 100)
    assert books.read([(key(), value(3, last=150, epoch=2))], 150).growths == []


def test_an_entry_that_was_made_again_counts_from_zero() -> None:
    books = accountant()
    books.read([(key(), value(9))], 100)
    (again,) = books.read([(key(), value(2, first=300, last=300))], 300).growths
    assert (again.new, again.counts.sent_packets) == (True, 2)


def test_idle_ones_are_named_by_their_protocol_s_time() -> None:
    books = accountant()
    items = [(key(1, 6), value(1)), (key(2, 17), value(1))]
    assert books.read(items, 100).idle == []
    assert books.read(items, 150).idle == []
    assert books.read(items, 151).idle == [key(2, 17)]
    assert books.read(items, 601).idle == [key(1, 6), key(2, 17)]


def test_one_that_moved_since_the_last_read_is_never_idle() -> None:
    books = accountant()
    books.read([(key(1, 17), value(1))], 100)
    assert books.read([(key(1, 17), value(2))], 10_000).idle == []


def test_jiffies_wrap() -> None:
    books = accountant()
    item = (key(1, 17), value(1, last=MASK - 10))
    books.read([item], MASK - 10)
    assert books.read([item], 20).idle == []
    assert books.read([item], 60).idle == [key(1, 17)]


def test_a_packet_after_the_clock_was_read_is_not_two_to_the_32_ticks_idle() -> None:
    books = accountant()
    item = (key(1, 17), value(1, last=105))
    books.read([item], 100)
    assert books.read([item], 100).idle == []


def test_the_last_word_of_an_evicted_entry() -> None:
    books = accountant()
    books.read([(key(), value(3))], 100)
    last = books.evicted(key(), value(4))
    assert last is not None
    assert last.counts.sent_packets == 1
    assert books.evicted(key(7), value(0)) is not None  # never seen: its connection counts
    books.read([(key(), value(3))], 100)
    assert books.evicted(key(), value(3)) is None


def test_the_age_of_a_flow_s_last_packet() -> None:
    assert age_seconds(100, 350, 250) == 1.0
    assert age_seconds(MASK, 249, 250) == 1.0, "jiffies wrap"
    assert age_seconds(351, 350, 250) == 0.0, "a packet after the clock was read"


def test_counters_read_between_the_two_additions_of_a_flush_do_not_go_back() -> None:
    """Two processors may add what both took from one socket; until a third puts it right the entry is too high."""
    books = accountant()
    books.read([(key(), value(10))], 100)
    assert books.read([(key(), value(7))], 101).growths == []
    (growth,) = books.read([(key(), value(12))], 102).growths
    assert growth.counts.sent_packets == 2
    assert books.evicted(key(), value(11)) is None


def test_counters_wrap_at_two_to_the_64() -> None:
    books = accountant()
    books.read([(key(), value((1 << 64) - 1))], 100)
    (growth,) = books.read([(key(), value(1))], 101).growths
    assert growth.counts.sent_packets == 2


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_growths_add_up(steps: list[int]) -> None:
    books, total, seen = accountant(), 0, 0
    for step in steps:
        total += step
        seen += sum(g.counts.sent_packets for g in books.read([(key(), value(total))], 100).growths)
    assert seen == total
