"""Kernel maps as dictionaries that keep the order of writes, and the kernel's lookup over their bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Protocol

from agent.abi.structs import (
    CLASSES,
    ENDPOINT,
    EPOCH,
    MAPS,
    NEARBY,
    NEARBY_SLOTS,
    PREFIX,
    RULE,
    RULE_KEY_BITS,
    U32,
    pack_address,
    pack_folder,
    pack_rule_key,
)
from agent.errors import MapError
from agent.model.cluster import Address
from agent.model.verdict import Direction, EndpointState, Verdict
from agent.model.want import PORT_BITS, port_index
from agent.semantics.names import parents
from agent.sync.entries import pack_name

Item = tuple[bytes, bytes]
Write = tuple[str, bytes, bytes | None]
"""(map, key, value); None: deleted."""

NAMES = {
    "8.8.8.8": ("api.example.org",),
    "192.168.7.7": ("x.eu.example.org", "db.internal"),
    "1.1.1.1": ("www.other.org",),
    "2001:db8::1": ("example.org",),
    "10.1.0.1": ("api.example.org", "x.eu.example.org"),
}
"""What `learned` has, for every endpoint."""

GRACE = "grace"
"""In place of a map: from here on no program runs that began before."""

Probe = tuple[Direction, Address, int, int]
"""(direction, peer, protocol, port)"""


LENGTHS: set[int] = set()
"""Of the prefixes of ports of all rows that were ever written: others need not be probed."""


@dataclass
class DictMap:
    """One map. `refuse`: how many more items it takes (None: all). `room`: entries that it holds."""

    name: str
    journal: list[Write]
    entries: dict[bytes, bytes] = field(default_factory=dict)
    refuse: int | None = None
    room: int | None = None

    def put_all(self, items: Iterable[Item]) -> None:
        for key, value in items:
            if self.refuse is not None:
                if self.refuse == 0:
                    raise MapError(f"map {self.name}: update key={key.hex()}: no room")
                self.refuse -= 1
            if self.room is not None and key not in self.entries and len(self.entries) >= self.room:
                raise MapError(f"map {self.name}: update key={key.hex()}: No space left on device")
            self.entries[key] = value
            if self.name == "rules":
                LENGTHS.update({int.from_bytes(key[:4], sys.byteorder) - RULE_KEY_BITS} & set(range(33)))
            self.journal.append((self.name, key, value))

    def delete_all(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.entries.pop(key, None)
            self.journal.append((self.name, key, None))

    def wait_for_readers(self) -> None:
        self.journal.append((GRACE, b"", None))

    def items(self) -> list[Item]:
        return list(self.entries.items())


class DictMaps(dict[str, DictMap]):
    """All maps, with one journal."""

    def __init__(self) -> None:
        self.journal: list[Write] = []
        super().__init__({name: DictMap(name, self.journal) for name in MAPS})

    def contents(self) -> dict[str, dict[bytes, bytes]]:
        return {name: dict(one.entries) for name, one in self.items()}

    def take_journal(self) -> list[Write]:
        taken = list(self.journal)
        self.journal.clear()
        return taken

    def endpoint(self, cgroup_id: int) -> Mapping[str, int] | None:
        raw = self["endpoints"].entries.get(pack_folder(cgroup_id))
        return None if raw is None else ENDPOINT.unpack(raw)

    def epoch(self, slot: int) -> int:
        raw = self["epochs"].entries.get(U32.pack(value=slot))
        return 0 if raw is None else int(EPOCH.unpack(raw)["epoch"])

    def evicted(self, slot: int) -> tuple[int, int]:
        egress, ingress = EPOCH.unpack(self["epochs"].entries[U32.pack(value=slot)])["evicted"]
        return int(egress), int(ingress)


def passes(maps: Reader, cgroup_id: int, probe: Probe) -> bool | None:
    """judge() of bpf/judge.c: does this pass? None for an endpoint that is not there."""
    direction, address = probe[:2]
    raw = maps.get("endpoints", _folder(cgroup_id))
    if raw is None:
        return None
    endpoint = _endpoint(raw)
    own = pack_address(address) in (endpoint["own"][:16], endpoint["own"][16:])
    if endpoint["state"] == EndpointState.UNMANAGED or address.is_loopback or own:
        return True
    if endpoint["state"] != EndpointState.MANAGED:
        return False
    rows = (_row(maps, endpoint["ruleset"], each, probe) for each in _classes(maps, address))
    rule = next((row for row in rows if row is not None), None)
    if rule is None:
        rule = RULE.unpack(endpoint["defaults"], int(direction) * RULE.size)
    if rule["lift"] and rule["verdict"] == Verdict.DENY and direction is Direction.EGRESS:
        return _passes_by_name(maps, endpoint["ruleset"], probe)
    return bool(rule["verdict"] != Verdict.DENY)


def _row(maps: Reader, ruleset: int, peer_class: int, probe: Probe) -> Mapping[str, int] | None:
    direction, _, protocol, port = probe
    index = port_index(protocol, port)
    for length in sorted(LENGTHS, reverse=True):
        free = PORT_BITS - length
        rule = maps.get("rules", _rule_key(ruleset, peer_class, int(direction), (index >> free << free, length)))
        if rule is not None:
            return RULE.unpack(rule)
    return None


def _passes_by_name(maps: Reader, ruleset: int, probe: Probe) -> bool:
    """judge_names() of bpf/judge.c: every endpoint knows the addresses of NAMES by these."""
    for name in NAMES.get(str(probe[1]), ()):
        found = next((raw for node in _nodes(name) if (raw := maps.get("names", pack_name(node))) is not None), None)
        row = _row(maps, ruleset, int(CLASSES.unpack(found)["peer"]), probe) if found else None
        if row is not None and row["verdict"] != Verdict.DENY:
            return True
    return False


@cache
def _nodes(name: str) -> tuple[str, ...]:
    return (name, *(f"*.{parent}" for parent in parents(name)))


def _classes(maps: Reader, address: Address) -> tuple[int, int]:
    keys = _prefixes(address)
    found = maps.get("hosts", keys[0])
    for key in () if found else keys:
        found = maps.get("peers", key)
        if found is not None:
            break
    if found is None:
        return 0, 0
    classes = CLASSES.unpack(found)
    return int(classes["peer"]), int(classes["base"])


@cache
def _prefixes(address: Address) -> tuple[bytes, ...]:
    """Keys of all prefixes around an address, the longest first."""
    number = int.from_bytes(pack_address(address), "big")
    lengths = range(128, -1, -1)
    masked = ((n, (number >> (128 - n) << (128 - n)).to_bytes(16, "big")) for n in lengths)
    return tuple(PREFIX.pack(length=n, address=address_) for n, address_ in masked)


_rule_key = cache(pack_rule_key)


@cache
def _endpoint(raw: bytes) -> Mapping[str, int]:
    return ENDPOINT.unpack(raw)


@cache
def _u32(value: int) -> bytes:
    return U32.pack(value=value)


@cache
def _folder(cgroup_id: int) -> bytes:
    return pack_folder(cgroup_id)


class Reader(Protocol):
    """How a lookup reads a map."""

    def get(self, name: str, key: bytes) -> bytes | None: ...


class Replay:
    """The maps as they were, and each write since: tells which lookups a write can have changed."""

    def __init__(self, contents: Mapping[str, Mapping[bytes, bytes]]) -> None:
        self._contents = {name: dict(entries) for name, entries in contents.items()}
        self._readers: dict[tuple[str, bytes], set[Lookup]] = {}
        self._lookup: Lookup | None = None

    def get(self, name: str, key: bytes) -> bytes | None:
        if self._lookup is not None:
            self._readers.setdefault((name, key), set()).add(self._lookup)
        return self._contents[name].get(key)

    def ask(self, lookup: Lookup) -> bool | None:
        self._lookup = lookup
        return passes(self, *lookup)

    def write(self, name: str, key: bytes, value: bytes | None) -> set[Lookup]:
        """Lookups whose answer may be another one now."""
        if value is None:
            self._contents[name].pop(key, None)
        else:
            self._contents[name][key] = value
        return self._readers.pop((name, key), set())


class History:
    """The maps at every moment of a journal; a program that stalls reads them at moments of its own choice."""

    def __init__(self, contents: Mapping[str, Mapping[bytes, bytes]], journal: list[Write]) -> None:
        self._before = contents
        self._written: dict[tuple[str, bytes], list[tuple[int, bytes | None]]] = {}
        self.graces = [moment for moment, (name, _, _) in enumerate(journal) if name == GRACE]
        self.end = len(journal)
        for moment, (name, key, value) in enumerate(journal):
            self._written.setdefault((name, key), []).append((moment, value))

    def get(self, name: str, key: bytes, moment: int) -> bytes | None:
        """As of after `moment` writes."""
        value = self._before[name].get(key)
        for at, later in self._written.get((name, key), ()):
            if at >= moment:
                break
            value = later
        return value


class Program:
    """One run of the slow path: epoch first, then all else, each read at any moment after the one before.

    It ends before the next grace period does. `stalls`: how likely it is to wait before it reads another map.
    """

    def __init__(self, history: History, r: Random, cgroup_id: int, stalls: float = 0.5) -> None:
        self._history, self._r, self._stalls = history, r, stalls
        self.moment = r.randint(0, history.end)
        self._last = next((grace for grace in history.graces if grace >= self.moment), history.end)
        self._map = ""
        self.epoch = self._read_epoch(cgroup_id)

    def get(self, name: str, key: bytes) -> bytes | None:
        if name != self._map and self._r.random() < self._stalls:
            self.moment = self._r.randint(self.moment, self._last)
        self._map = name
        return self._history.get(name, key, self.moment)

    def _read_epoch(self, cgroup_id: int) -> int:
        near = NEARBY.unpack(self.get("nearby", _u32(cgroup_id % NEARBY_SLOTS)) or NEARBY.pack())
        if near["cgroup_id"] == cgroup_id:
            return int(near["epoch"])
        raw = self.get("endpoints", _folder(cgroup_id))
        return _epoch(self.get("epochs", _u32(_endpoint(raw)["slot"]))) if raw else 0


def current_epoch(history: History, cgroup_id: int) -> int:
    """The epoch under which a cached verdict is good in the end."""
    near = NEARBY.unpack(history.get("nearby", _u32(cgroup_id % NEARBY_SLOTS), history.end) or NEARBY.pack())
    if near["cgroup_id"] == cgroup_id:
        return int(near["epoch"])
    raw = history.get("endpoints", _folder(cgroup_id), history.end)
    return _epoch(history.get("epochs", _u32(_endpoint(raw)["slot"]), history.end)) if raw else 0


def _epoch(raw: bytes | None) -> int:
    return int(EPOCH.unpack(raw)["epoch"]) if raw else 0


Lookup = tuple[int, Probe]
