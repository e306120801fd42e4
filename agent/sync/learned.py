"""What DNS servers gave identities (map `learned`), as bpf/names.c finds it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from agent.abi.structs import LEARNED, LEARNED_KEY, LEARNED_SETS, LEARNED_WAYS, pack_address
from agent.model.cluster import Address
from agent.sync.entries import unpack_name

_WORD = (1 << 64) - 1
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)


class Reader(Protocol):
    """One map: `get` answers a lookup as a program's would be answered."""

    def get(self, key: bytes) -> bytes | None: ...


class Eraser(Protocol):
    """Deletes; what is not there is no error."""

    def delete_all(self, keys: Iterable[bytes]) -> None: ...


def texts(maps: Mapping[str, Reader], identity: int, address: bytes) -> Iterator[bytes]:
    """The names, as keys of map `names`, that an identity knows an address by, expired ones too.

    `address`: 16 bytes, IPv4 mapped.
    """
    first = (_tag(address) * LEARNED_SETS >> 32) * LEARNED_WAYS
    for index in range(first, first + LEARNED_WAYS):
        raw = maps["learned"].get(LEARNED_KEY.pack(identity=identity, index=index))
        if raw is not None and (entry := LEARNED.unpack(raw))["address"] == address:
            yield entry["text"]


def name_of(maps: Mapping[str, Reader], identity: int, address: Address) -> str:
    """One of the names, as people write it; "" where there is none."""
    return next(map(unpack_name, texts(maps, identity, pack_address(address))), "")


def forget(learned: Eraser, identities: Iterable[int]) -> None:
    """Whatever is learned under these numbers, before another identity has one of them."""
    indexes = range(LEARNED_SETS * LEARNED_WAYS)
    for identity in identities:
        learned.delete_all(LEARNED_KEY.pack(identity=identity, index=index) for index in indexes)


def _tag(address: bytes) -> int:
    """tag_of_address() of bpf/packet.h."""
    halves = (int.from_bytes(address[at : at + 8], sys.byteorder) for at in (0, 8))
    return (sum(half * factor for half, factor in zip(halves, _FACTORS, strict=True)) & _WORD) >> 32
