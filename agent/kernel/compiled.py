"""Compiled programs as values: what bcc makes of bpf/, with maps by name, to be kept in a file and loaded without it.

Programs name maps by descriptors of the process that compiled them (kernel: include/uapi/linux/bpf.h,
BPF_PSEUDO_MAP_FD); here they name them by their place in `maps`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

_SIZE = 8
_LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW: two instructions long
_MAP_FD = 1


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map as bpf/maps.c declares it: what BPF_MAP_CREATE wants. Sizes in bytes."""

    name: str
    map_type: int
    key_size: int
    value_size: int
    entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """`programs`: instructions by name, each 8 bytes (RFC 9669), maps by their place in `maps`."""

    maps: tuple[MapDefinition, ...]
    programs: Mapping[str, bytes]

    def encode(self) -> bytes:
        """A checksum, and the rest as JSON behind it."""
        document = {
            "maps": [asdict(each) for each in self.maps],
            "programs": {name: base64.b64encode(code).decode() for name, code in self.programs.items()},
        }
        text = json.dumps(document, sort_keys=True).encode()
        return _digest(text) + b"\n" + text

    @classmethod
    def decode(cls, data: bytes) -> Compiled:
        """Raises ValueError where these are not the bytes that were encoded."""
        digest, _, text = data.partition(b"\n")
        if digest != _digest(text):
            raise ValueError("its checksum is another")
        document = json.loads(text)
        programs = {name: base64.b64decode(code) for name, code in document["programs"].items()}
        return cls(tuple(MapDefinition(**each) for each in document["maps"]), programs)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def by_place(code: bytes, places: Mapping[int, int]) -> bytes:
    """The program with each map's place where its descriptor was. Raises LookupError for an unknown one."""
    return _with_maps(code, lambda fd: places[fd])


def by_descriptor(code: bytes, descriptors: Sequence[int]) -> bytes:
    """The reverse, for the process that loads it."""
    return _with_maps(code, lambda place: descriptors[place])


def _with_maps(code: bytes, change: Callable[[int], int]) -> bytes:
    out = bytearray(code)
    for at in _map_loads(code):
        struct.pack_into("=i", out, at + 4, change(struct.unpack_from("=i", code, at + 4)[0]))
    return bytes(out)


def _map_loads(code: bytes) -> Iterator[int]:
    """Where an instruction loads the address of a map; what follows a 64-bit load is its second half, not one."""
    at = 0
    while at < len(code):
        wide = code[at] == _LOAD_64
        if wide and code[at + 1] >> 4 == _MAP_FD:
            yield at
        at += 2 * _SIZE if wide else _SIZE
