"""A struct as a table of fields: size, offsets, pack and unpack."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldType:
    """How one field is stored. `code` is a struct-module code in host order; `swap`: network order in memory.

    `inner`: what the bytes of a nested struct, or of an array of them, are.
    """

    code: str
    size: int
    align: int
    swap: bool = False
    count: int = 1
    inner: Layout | None = None


U64_MASK = (1 << 64) - 1
"""Counters are u64: sums and differences of them are modulo 2^64."""

u8 = FieldType("B", 1, 1)
u16 = FieldType("H", 2, 2)
u32 = FieldType("I", 4, 4)
u64 = FieldType("Q", 8, 8)
be16 = FieldType("H", 2, 2, swap=True)


def raw(size: int, align: int = 1) -> FieldType:
    """`size` bytes as they are."""
    return FieldType(f"{size}s", size, align)


def array(of: FieldType, count: int) -> FieldType:
    """`count` integers; a tuple in Python."""
    return FieldType(f"{count}{of.code}", of.size * count, of.align, count=count)


def swap16(value: int) -> int:
    """Host to network order and back, on the little-endian machines that dagwall runs on and on big-endian ones."""
    return int.from_bytes(value.to_bytes(2, "big"), _NATIVE)


_NATIVE: Any = "little" if struct.pack("=H", 1) == b"\x01\x00" else "big"


class Layout:
    """One struct of bpf/types.h. Fields in order, padding named `pad*`; nothing is implied."""

    def __init__(self, name: str, **fields: FieldType) -> None:
        self.name, self.fields = name, fields
        self.offsets: dict[str, int] = {}
        offset = 0
        for field, of in fields.items():
            if offset % of.align:
                raise ValueError(f"{name}.{field}: implicit padding at offset {offset}")
            self.offsets[field] = offset
            offset += of.size
        self.size = offset
        self._struct = struct.Struct("=" + "".join(f.code for f in fields.values()))

    def pack(self, **values: Any) -> bytes:
        """Fields by name; those left out are zero."""
        flat: list[Any] = []
        for field, of in self.fields.items():
            value = values.pop(field, None)
            if of.code.endswith("s"):
                flat.append(value or b"")
            elif of.count > 1:
                flat.extend(value or (0,) * of.count)
            else:
                flat.append(swap16(value) if of.swap and value else value or 0)
        if values:
            raise ValueError(f"{self.name} has no {', '.join(values)}")
        return self._struct.pack(*flat)

    def unpack(self, data: bytes | memoryview, offset: int = 0) -> Mapping[str, Any]:
        """All fields by name, padding included."""
        return self._named(self._struct.unpack_from(data, offset))

    def unpack_all(self, data: bytes | memoryview) -> Iterator[Mapping[str, Any]]:
        """An array of this struct."""
        return map(self._named, self._struct.iter_unpack(data))

    def _named(self, flat: tuple[Any, ...]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        at = 0
        for field, of in self.fields.items():
            if of.count > 1:
                out[field] = flat[at : at + of.count]
                at += of.count
            else:
                out[field] = swap16(flat[at]) if of.swap else flat[at]
                at += 1
        return out


def nested(layout: Layout, count: int = 1) -> FieldType:
    """A struct inside a struct, or an array of them, as bytes."""
    size, align = layout.size * count, max(f.align for f in layout.fields.values())
    return FieldType(f"{size}s", size, align, inner=layout)
