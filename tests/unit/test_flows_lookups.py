"""Answers of DNS servers as names for addresses: whose, which, how many."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.flows.lookups import MOST_OF_ENDPOINT, AskedNames, DnsAnswer, read_answer

ONE, TWO, THREE, SIX = (ip_address(each) for each in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::6"))
OWNER, OTHER = (7, 1 << 24), (8, 1 << 24)


def message(name: str, *records: str, kind: str = "A", rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    """An answer to a question for `name`; records as "owner ttl type data"."""
    answer = dns.message.make_response(dns.message.make_query(name, kind, id=1))
    answer.set_rcode(rcode)
    for owner, ttl, of, data in (record.split(" ", 3) for record in records):
        answer.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", of, data))
    return answer.to_wire()


@pytest.mark.parametrize(
    ("wire", "answer"),
    [
        (message("API.Stripe.com", "api.stripe.com. 30 A 192.0.2.1", "api.stripe.com. 30 A 192.0.2.2"),
         DnsAnswer("api.stripe.com", "A", "NOERROR", (ONE, TWO))),
        (message("a.example", "a.example. 9 CNAME b.cdn.test.", "b.cdn.test. 9 A 192.0.2.3"),
         DnsAnswer("a.example", "A", "NOERROR", (THREE,))),
        (message("a.example", "a.example. 9 AAAA 2001:db8::6", kind="AAAA"),
         DnsAnswer("a.example", "AAAA", "NOERROR", (SIX,))),
        (message("a.example", "other.example. 9 A 192.0.2.1"), DnsAnswer("a.example", "A", "NOERROR")),
        (message("a.example"), DnsAnswer("a.example", "A", "NOERROR")),
        (message("a.example", rcode=dns.rcode.NXDOMAIN), DnsAnswer("a.example", "A", "NXDOMAIN")),
        (message("a.example", rcode=dns.rcode.SERVFAIL), DnsAnswer("a.example", "A", "SERVFAIL")),
        (message("a.example", "a.example. 9 TXT x", kind="TXT"), None),
        (dns.message.make_query("a.example", "A", id=1).to_wire(), None),
        (b"", None),
        (bytes(12), None),
        (b"\0\0\x84\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", None),  # a name that points to itself
    ],
)  # fmt: skip
def test_what_an_answer_says(wire: bytes, answer: DnsAnswer | None) -> None:
    assert read_answer(wire) == answer


def test_a_chain_of_names_that_does_not_end_is_nothing() -> None:
    loop = message("a.example", "a.example. 9 CNAME b.example.", "b.example. 9 CNAME a.example.")
    assert read_answer(loop) in (None, DnsAnswer("a.example", "A", "NOERROR"))


def test_a_message_that_was_cut_has_the_addresses_that_are_whole() -> None:
    wire = message("a.example", "a.example. 9 A 192.0.2.1", "a.example. 9 A 192.0.2.2")
    assert read_answer(wire[:-2]) == DnsAnswer("a.example", "A", "NOERROR", (ONE,))


def test_a_name_cannot_turn_a_line() -> None:
    answer = read_answer(message(r"a\010\027[2J.example"))
    assert answer is not None
    assert answer.name.isprintable()


@given(st.binary(max_size=200))
def test_whatever_comes_is_no_error(data: bytes) -> None:
    read_answer(data)
    read_answer(message("a.example", "a.example. 9 A 192.0.2.1")[: len(data)] + data)


HS, CH, NONE, ANY = 4, 3, 254, 255
CLASSES = (0, 1, 2, CH, HS, 77, NONE, ANY, 65535)
TYPES = sorted({0, 41, 250, 251, 252, 65535, *(int(each) for each in dns.rdatatype.RdataType)})


def raw(asked: tuple[int, int], *records: tuple[int, int, bytes], opcode: int = 0, extra: int = 0) -> bytes:
    """Packed by hand, as a task would: (type, class) of the question; type, class and data of each record."""
    flags = 0x8180 | opcode << 11
    wire = struct.pack("!6H", 1, flags, 1, len(records) - extra, 0, extra) + b"\1a\0" + struct.pack("!HH", *asked)
    for kind, of, data in records:
        wire += b"\xc0\x0c" + struct.pack("!HHIH", kind, of, 60, len(data)) + data
    return wire


@pytest.mark.parametrize("of", CLASSES)
def test_only_class_in_has_addresses(of: int) -> None:
    """Of others dnspython knows no data of A and AAAA, or another (Hesiod's, Chaosnet's)."""
    for kind, data in ((1, bytes(4)), (28, bytes(16)), (1, b"\1x\0\1\2")):
        answer = read_answer(raw((kind, of), (kind, of, data)))
        assert of == dns.rdataclass.IN or answer is None or answer.addresses == ()


@pytest.mark.parametrize("of", CLASSES)
def test_a_message_of_any_class_and_type_is_no_error(of: int) -> None:
    chain = (5, of, b"\1a\0")
    for kind in TYPES:
        for data in (b"", b"\0", b"\xc0\x0c", bytes(4), bytes(16), b"\1a\0" + bytes(20), b"\xff" * 40):
            for asked in ((1, 1), (28, of), (kind, of)):
                read_answer(raw(asked, (kind, of, data)))
                read_answer(raw(asked, chain, (kind, of, data), extra=1))


@settings(max_examples=500)
@given(st.data())
def test_whole_messages_of_any_class_type_and_operation_are_no_error(data: st.DataObject) -> None:
    classes, types = st.sampled_from(CLASSES), st.sampled_from([1, 5, 28, *TYPES])
    record = st.tuples(types, classes, st.binary(max_size=40))
    records = data.draw(st.lists(record, max_size=4))
    asked = (data.draw(types), data.draw(classes))
    extra = data.draw(st.integers(0, len(records)))
    read_answer(raw(asked, *records, opcode=data.draw(st.integers(0, 15)), extra=extra))


def names() -> AskedNames:
    return AskedNames(lambda: 0.0)


def test_an_address_has_the_name_that_this_endpoint_asked_for_last() -> None:
    asked = names()
    asked.learn(OWNER, "etl", message("a.example", "a.example. 9 A 192.0.2.1"))
    asked.learn(OWNER, "etl", message("b.example", "b.example. 9 A 192.0.2.1"))
    asked.learn(OTHER, "etl", message("c.example", "c.example. 9 A 192.0.2.1"))
    assert [asked.name(owner, ONE) for owner in (OWNER, OTHER, (7, 5))] == ["b.example", "c.example", ""]


def test_who_asks_for_many_names_forgets_his_own_oldest() -> None:
    asked = names()
    asked.learn(OTHER, "etl", message("kept.example", "kept.example. 9 A 192.0.2.1"))
    for i in range(MOST_OF_ENDPOINT + 1):
        address = f"10.0.{i >> 8}.{i & 255}"
        asked.learn(OWNER, "etl", message(f"n{i}.example", f"n{i}.example. 9 A {address}"))
    assert asked.name(OWNER, ip_address("10.0.0.0")) == ""
    assert asked.name(OWNER, ip_address("10.0.0.1")) == "n1.example"
    assert asked.name(OTHER, ONE) == "kept.example"


def test_reading_answers_takes_a_share_of_the_thread_s_time_and_what_is_left_out_is_counted() -> None:
    now = iter(step / 10 for step in range(1000))
    asked = AskedNames(lambda: next(now))
    for _ in range(10):
        asked.learn(OWNER, "etl", message("a.example", "a.example. 9 A 192.0.2.1"))
    assert 0 < asked.skipped < 10
