"""From the pins of another release to this one's, without a gap.

Maps whose structs are the same are shared, the others are copied field by field; then each link gets its new program
in one step, and the old pins go.

A death on the way leaves the old release's programs on some hooks and this one's on others; each judges by maps that
are whole, and the next start goes on. What the old programs count after the copy is added when the last of them has
gone; of a map that is copied, what the new ones count in the microseconds of that addition may be lost.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.abi.layout import U64_MASK, Layout, raw
from agent.abi.schema import Convert, Schema, Table, converter, is_same, own_schema
from agent.abi.structs import MAPS, U32, MapSpec
from agent.errors import LoadError
from agent.kernel import syscall
from agent.kernel.former_rules import has_port_classes, rows_by_prefix
from agent.kernel.maps import Item, KernelMap, possible_cpus
from agent.kernel.pins import Pins
from agent.log import event

COUNTED = ("identities", "denials", "losses")
"""Exact totals: their values are u64, modulo 2^64."""


def pinned_schema(pins: Pins) -> Schema | None:
    """What the release of these pins had in its maps; None where it left none. Raises LoadError."""
    if not pins.schema.exists():
        return None
    fd = syscall.open_pin(str(pins.schema))
    try:
        return Schema.decode(syscall.map_lookup(fd, U32.pack(value=0), syscall.map_info(fd).value_size) or b"")
    finally:
        os.close(fd)


def schema_map() -> int:
    """A map that holds this release's schema; its descriptor."""
    text = own_schema().encode()
    fd = syscall.map_create(syscall.MapType.ARRAY, U32.size, len(text), 1)
    syscall.map_update(fd, U32.pack(value=0), text)
    return fd


def refuse_newer(pins: Pins) -> None:
    """LoadError where a newer release's programs are in force: they stay, and nothing is guessed about their maps.

    Without a link they never came into force: a start of that release has died on its way, and its pins go.
    """
    newer = []
    for each in pins.others():
        if each.abi > pins.abi and any(each.links.glob("*/*")):
            newer.append(each)
        elif each.abi > pins.abi:
            each.remove_version()
    if newer:
        raise LoadError(
            f"{newer[-1].version}: a newer release of dagwall (ABI {newer[-1].abi}, this one's is {pins.abi}) is in "
            "force on this node and stays so: start that release again, or take it off with its `dagwall detach`"
        )


@dataclass(slots=True)
class Migration:
    """One way from `old` to `new`: `share`, load the programs, `copy`, attach, `finish`."""

    old: Pins
    new: Pins
    _was: Schema
    _copied: dict[str, KernelMap] = field(default_factory=dict)
    _base: dict[str, dict[bytes, bytes]] = field(default_factory=dict)

    @classmethod
    def between(cls, new: Pins) -> Migration | None:
        """From the newest older release that is pinned, to pins that are not whole yet. Raises LoadError."""
        older = [each for each in new.others() if each.abi < new.abi]
        if not older or new.schema.exists():
            return None
        was = pinned_schema(older[-1])
        if was is None:
            raise LoadError(f"{older[-1].version}: the release that made these pins left no schema of its maps")
        return cls(older[-1], new, was)

    def share(self) -> None:
        """Maps of equal structs belong to both from now on: the loader finds them pinned, and makes the others."""
        self.new.remove_version()  # what a start before this one has left unfinished
        self.new.maps.mkdir(parents=True)
        for name, table in own_schema().tables.items():
            if self._is_shared(name, table) and (self.old.maps / name).exists():
                fd = syscall.open_pin(str(self.old.maps / name))
                syscall.pin(fd, str(self.new.maps / name))
                os.close(fd)

    def _is_shared(self, name: str, table: Table) -> bool:
        before = self._was.tables.get(name)
        return before is not None and is_same(before, table)

    def copy(self, maps: Mapping[str, KernelMap]) -> None:
        """Fill the maps that are not shared. Raises LoadError, MapError."""
        now = own_schema().tables
        for name, table in now.items():
            before = self._was.tables.get(name)
            if MAPS[name].kernel_only or before is None or self._is_shared(name, table):
                continue
            self._copied[name] = found = _opened(self.old, name, before)
            items = list(_items(found))
            if name == "rules" and has_port_classes(before):
                maps[name].put_all(rows_by_prefix(items, self._old_items("ports"), before, table))
            else:
                maps[name].put_all(_converted(items, before, table))
            self._base[name] = dict(items) if name in COUNTED else {}
        shared = sum(self._is_shared(name, table) for name, table in now.items())
        event("pins.migrated", abi=self._was.abi, to=self.new.abi, shared=shared, copied=sorted(self._copied))

    def finish(self, maps: Mapping[str, KernelMap]) -> None:
        """After the last program of the old release: add what it has counted since, and remove its pins."""
        now = own_schema().tables
        for name in COUNTED:
            if name not in self._copied:
                continue
            table, before = now[name], self._was.tables[name]
            items = list(_items(self._copied[name]))
            grown = [item for item in items if self._base[name].get(item[0]) != item[1]]
            base = [(key, self._base[name].get(key, bytes(len(value)))) for key, value in grown]
            was = _converted(base, before, table)
            for (key, value), (_, earlier) in zip(_converted(grown, before, table), was, strict=True):
                more = _minus(value, earlier)
                if any(more):
                    maps[name].put(key, _plus(maps[name].get(key) or b"", more))
        if "flows" in self._copied:
            self._bring_flows(maps["flows"], self._was.tables["flows"], now["flows"])
        for each in self._copied.values():
            each.close()
        self.old.remove_version()

    def _old_items(self, name: str) -> list[Item]:
        found = _opened(self.old, name, self._was.tables[name])
        try:
            return found.items()
        finally:
            found.close()

    def _bring_flows(self, flows: KernelMap, before: Table, now: Table) -> None:
        """Those that the old programs opened since the copy: their answers are still on the way."""
        found = _converted(list(_items(self._copied["flows"])), before, now)
        flows.put_all([(key, value) for key, value in found if flows.get(key) is None])


def _opened(pins: Pins, name: str, table: Table) -> KernelMap:
    """A map as the release that made it knew it."""
    key, value = Layout("key", bytes=raw(table.key_size)), Layout("value", bytes=raw(table.value_size))
    return KernelMap(name, syscall.open_pin(str(pins.maps / name)), MapSpec(key, value, 0, per_cpu=table.per_cpu))


def _items(found: KernelMap) -> Iterator[Item]:
    if not found.spec.per_cpu:
        yield from found.items()
        return
    for key in found.keys():  # noqa: SIM118  of a kernel map
        value = found.get(key)
        if value is not None:
            yield key, value


def _converted(items: list[Item], before: Table, now: Table) -> list[Item]:
    """Raises LoadError where two old keys would be one."""
    key = converter(before.key, now.key, now.key_size)
    value = _of_each_cpu(converter(before.value, now.value, now.value_size), before.value_size, now.per_cpu)
    out = [(key(k), value(v)) for k, v in items]
    if len({k for k, _ in out}) < len(out):
        raise LoadError("two keys of the older release's map would be one")
    return out


def _of_each_cpu(convert: Convert, size: int, per_cpu: bool) -> Convert:  # noqa: FBT001
    """Per-CPU values stand in a row, each padded to eight bytes; dagwall's are multiples of eight."""
    if not per_cpu:
        return convert
    return lambda data: b"".join(convert(data[at * size : (at + 1) * size]) for at in range(possible_cpus()))


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(data) // 8}Q", data)


def _minus(value: bytes, earlier: bytes) -> tuple[int, ...]:
    return tuple((now - was) & U64_MASK for now, was in zip(_words(value), _words(earlier), strict=True))


def _plus(value: bytes, more: tuple[int, ...]) -> bytes:
    words = _words(value) if value else (0,) * len(more)
    return struct.pack(f"={len(more)}Q", *((a + b) & U64_MASK for a, b in zip(words, more, strict=True)))
