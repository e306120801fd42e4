"""What one release tells the next about its maps, and how values are carried over."""

from __future__ import annotations

import json

import pytest

from agent.abi.layout import FieldType, Layout, array, be16, nested, raw, u8, u16, u32, u64
from agent.abi.schema import Convert, Field, Schema, Table, converter, fields_of, is_same, own_schema
from agent.abi.structs import FOLDER, PREFIX, pack_folder
from agent.errors import LoadError


def convert(old: Layout, new: Layout) -> Convert:
    return converter(described(old), described(new), new.size)


def described(layout: Layout) -> tuple[Field, ...]:
    """As the text of a schema tells it."""
    table = Table(fields_of(layout), (), layout.size, 0, per_cpu=False, entries=0)
    return Schema.decode(Schema(1, {"t": table}).encode() + b"\0\0").tables["t"].key


def test_a_schema_is_read_as_it_was_written() -> None:
    assert Schema.decode(own_schema().encode()) == own_schema()


def test_what_was_padding_may_have_a_name_by_now() -> None:
    old, new = Layout("t", a=u32, pad=u32, b=u64), Layout("t", a=u32, owner=u32, b=u64)
    before, now = (Table((), fields_of(each), 0, 16, per_cpu=False, entries=0) for each in (old, new))
    assert is_same(before, now)
    assert not is_same(now, before), "a name is never padding again"
    assert not is_same(Table((), fields_of(old), 0, 16, per_cpu=True, entries=0), now)


def test_an_array_that_grew_is_another_map() -> None:
    """`losses` had nine entries until ABI 3, whose releases wrote no sizes down; other arrays are as they were."""
    said = json.loads(own_schema().encode())
    for table in said["tables"].values():
        del table["entries"]
    before, now = Schema.decode(json.dumps(said).encode()).tables, own_schema().tables
    assert before["losses"].entries == 9
    assert {name for name in now if not is_same(before[name], now[name])} == {"losses"}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"abi": 1}', b'{"abi": 1, "tables": {"t": 7}}', b"\xff"])
def test_what_is_no_schema_is_an_error(text: bytes) -> None:
    with pytest.raises(LoadError, match="schema of the pinned maps cannot be read"):
        Schema.decode(text)


def test_fields_are_carried_by_name() -> None:
    old = Layout("t", a=u32, b=u8, pad=raw(3), c=u64, gone=u64)
    new = Layout("t", fresh=u64, c=u64, a=u32, pad=u16, b=u8, pad2=u8)
    found = new.unpack(convert(old, new)(old.pack(a=7, b=8, c=9, gone=1, pad=b"xxx")))
    assert dict(found) == {"fresh": 0, "c": 9, "a": 7, "pad": 0, "b": 8, "pad2": 0}


@pytest.mark.parametrize(("old", "new", "value"), [(u32, u64, 2**32 - 1), (u64, u32, 77), (u8, u64, 255)])
def test_integers_may_change_their_width(old: FieldType, new: FieldType, value: int) -> None:
    a, b = Layout("t", x=old), Layout("t", x=new)
    assert b.unpack(convert(a, b)(a.pack(x=value)))["x"] == value


def test_an_integer_that_does_not_fit_is_an_error_that_names_it() -> None:
    a, b = Layout("t", x=u64), Layout("t", x=u32)
    with pytest.raises(LoadError, match=r"field x: .* does not fit into 4 bytes"):
        convert(a, b)(a.pack(x=2**40))


def test_nested_structs_grow_each_for_itself() -> None:
    small, large = Layout("s", x=u64, y=u64), Layout("s", new=u64, x=u64, y=u64)
    old, new = Layout("t", head=be16, pad=raw(6), by=nested(small, 2)), Layout("t", by=nested(large, 3), head=be16)
    data = old.pack(head=443, by=small.pack(x=1, y=2) + small.pack(x=3, y=4))
    found = new.unpack(convert(old, new)(data))
    assert found["head"] == 443
    rows = [dict(row) for row in large.unpack_all(found["by"])]
    assert rows == [{"new": 0, "x": 1, "y": 2}, {"new": 0, "x": 3, "y": 4}, {"new": 0, "x": 0, "y": 0}]


def test_arrays_and_bytes_keep_what_fits() -> None:
    old, new = Layout("t", a=array(u32, 2), b=raw(4)), Layout("t", a=array(u32, 3), b=raw(2), pad=raw(2))
    found = new.unpack(convert(old, new)(old.pack(a=(1, 2), b=b"wxyz")))
    assert (found["a"], found["b"]) == ((1, 2, 0), b"wx")


def test_keys_of_a_hash_become_those_of_a_trie() -> None:
    """As `endpoints` and `hosts` did with ABI 2: prefixes of their whole length."""
    bare, address = Layout("u64", value=u64), Layout("address", address=raw(16, align=4))
    assert convert(bare, FOLDER)(bare.pack(value=1 << 33 | 7)) == pack_folder(1 << 33 | 7)
    of = bytes(range(16))
    assert convert(address, PREFIX)(of) == PREFIX.pack(length=128, address=of)
