"""What is in the maps, as a text that a later release can read: each release pins its own beside its maps.

Values are carried over field by field, by name: what the new release does not know is dropped, what is new is zero,
integers may become wider. Pure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.abi.layout import Layout
from agent.abi.structs import ABI_VERSION, MAPS, MapSpec
from agent.errors import LoadError

Convert = Callable[[bytes], bytes]
_FORMER_NAMES = {"cgroup_id": "value"}
"""What fields were called before: the key of `endpoints` was a bare number until ABI 2."""

_FORMER_ENTRIES = {"losses": 9}
"""Of arrays that have grown since ABI 3."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field as the release that wrote it had it; `inner` are those of a nested struct."""

    name: str
    size: int
    offset: int
    inner: tuple[Field, ...] = ()
    inner_size: int = 0
    integer: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """One map: sizes in bytes. `entries`: as MapSpec.fixed_entries."""

    key: tuple[Field, ...]
    value: tuple[Field, ...]
    key_size: int
    value_size: int
    per_cpu: bool
    entries: int


@dataclass(frozen=True, slots=True)
class Schema:
    """All maps of a release."""

    abi: int
    tables: Mapping[str, Table]

    def encode(self) -> bytes:
        return json.dumps({"abi": self.abi, "tables": {n: _plain(t) for n, t in self.tables.items()}}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Schema:
        """Raises LoadError where it is none."""
        try:
            said = json.loads(data.rstrip(b"\0"))
            return cls(
                int(said["abi"]), {str(n): _table(each, _entries(n, each)) for n, each in said["tables"].items()}
            )
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            raise LoadError(f"the schema of the pinned maps cannot be read: {exc!r}") from exc


def is_same(old: Table, new: Table) -> bool:
    """May both releases use one map? What was padding is zero, and may have a name by now."""

    def alike(before: Sequence[Field], now: Sequence[Field]) -> bool:
        return len(before) == len(now) and all(
            a == b or (a.name.startswith("pad") and (a.offset, a.size) == (b.offset, b.size))
            for a, b in zip(before, now, strict=True)
        )

    rest = replace(old, key=new.key, value=new.value)
    return rest == new and alike(old.key, new.key) and alike(old.value, new.value)


def own_schema() -> Schema:
    """This release's."""
    return Schema(ABI_VERSION, {name: _described(spec) for name, spec in MAPS.items()})


def converter(old: Sequence[Field], new: Sequence[Field], new_size: int) -> Convert:
    """Bytes of the old struct into bytes of the new one. A trie's new key is a prefix of its whole length."""
    before = {field.name: field for field in old}
    names = {field.name: field.name if field.name in before else _FORMER_NAMES.get(field.name, "") for field in new}
    steps = [
        (before[names[field.name]], field)
        for field in new
        if names[field.name] in before and not field.name.startswith("pad")
    ]
    prefix_bits = (new_size - 4) * 8 if "length" in names and "length" not in before else 0

    def convert(data: bytes) -> bytes:
        out = bytearray(new_size)
        out[: 4 if prefix_bits else 0] = prefix_bits.to_bytes(4, sys.byteorder) if prefix_bits else b""
        for source, target in steps:
            out[target.offset : target.offset + target.size] = _carried(data, source, target)
        return bytes(out)

    return convert


def _carried(data: bytes, source: Field, target: Field) -> bytes:
    """One field. Raises LoadError where an integer does not fit any more."""
    raw = data[source.offset : source.offset + source.size]
    if source.inner and target.inner:
        each = converter(source.inner, target.inner, target.inner_size)
        parts = (each(raw[at : at + source.inner_size]) for at in range(0, len(raw), source.inner_size))
        return b"".join(parts)[: target.size].ljust(target.size, b"\0")
    if source.size == target.size:
        return raw
    if not (source.integer and target.integer):
        return raw[: target.size].ljust(target.size, b"\0")
    try:
        return int.from_bytes(raw, sys.byteorder).to_bytes(target.size, sys.byteorder)
    except OverflowError as exc:
        raise LoadError(f"field {target.name}: {raw.hex()} does not fit into {target.size} bytes") from exc


def _described(spec: MapSpec) -> Table:
    return Table(
        fields_of(spec.key), fields_of(spec.value), spec.key.size, spec.value.size, spec.per_cpu, spec.fixed_entries
    )


def fields_of(layout: Layout) -> tuple[Field, ...]:
    return tuple(
        Field(
            name, of.size, layout.offsets[name], fields_of(of.inner) if of.inner else (),
            of.inner.size if of.inner else 0, integer=of.count == 1 and not of.swap and not of.code.endswith("s"),
        )
        for name, of in layout.fields.items()
    )  # fmt: skip


def _plain(table: Table) -> dict[str, Any]:
    return {
        "key": [_listed(f) for f in table.key], "value": [_listed(f) for f in table.value],
        "keySize": table.key_size, "valueSize": table.value_size, "perCpu": table.per_cpu, "entries": table.entries,
    }  # fmt: skip


def _listed(field: Field) -> list[Any]:
    return [field.name, field.size, field.offset, [_listed(f) for f in field.inner], field.inner_size, field.integer]


def _entries(name: str, said: Mapping[str, Any]) -> int:
    """Releases until ABI 3 did not write them down: the arrays of these sizes are still as they were then."""
    as_now = MAPS[name].fixed_entries if name in MAPS else 0
    return int(said.get("entries", _FORMER_ENTRIES.get(name, as_now)))


def _table(said: Mapping[str, Any], entries: int) -> Table:
    key, value = (tuple(_field(f) for f in said[part]) for part in ("key", "value"))
    return Table(key, value, int(said["keySize"]), int(said["valueSize"]), bool(said["perCpu"]), entries)


def _field(said: Sequence[Any]) -> Field:
    name, size, offset, inner, inner_size, integer = said
    return Field(str(name), int(size), int(offset), tuple(_field(f) for f in inner), int(inner_size), bool(integer))
