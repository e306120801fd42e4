"""The writes of one step in their order: servers and parts, rules, hosts and peers; then hosts and peers that go;
then endpoints, epochs and `nearby`; then endpoints, rules, servers and parts that go.

A rule is there before anything refers to it, and goes after everything that did. Addresses are what they will be
before an endpoint gets its new ruleset: whom that would let reach what an address was is found by no packet. An epoch
is written after everything that a revocation changes or deletes: a packet on the way may be judged by what was,
but its verdict is stored under an epoch that is over (P10). Where addresses go, one more is written before them, so
that what is revoked does not wait for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from agent.abi.structs import RULE_KEY, U32, pack_folder
from agent.model.want import Delta, Want
from agent.sync import entries
from agent.sync.endpoints import EndpointOps
from agent.sync.seqlock import SeqLock

Item = tuple[bytes, bytes]
K = TypeVar("K")
V = TypeVar("V")


class Map(Protocol):
    """A kernel map as plans write it; agent.kernel.maps.KernelMap and the tests' DictMap are ones."""

    def put_all(self, items: Iterable[Item]) -> None: ...
    def delete_all(self, keys: Iterable[bytes]) -> None: ...
    def wait_for_readers(self) -> None: ...
    def items(self) -> list[Item]: ...


@dataclass(slots=True)
class Plan:
    """By map, in this order: `upserts`; `questions` (which call verdicts into question), and `deletes` of addresses;
    `endpoints`; `closing`, which does it again; all other `deletes`.
    """

    upserts: list[tuple[str, list[Item]]] = field(default_factory=list)
    deletes: list[tuple[str, list[bytes]]] = field(default_factory=list)
    endpoints: list[Item] = field(default_factory=list)
    questions: list[tuple[str, list[Item]]] = field(default_factory=list)
    closing: list[tuple[str, list[Item]]] = field(default_factory=list)
    holds: bool = False  # only holds endpoints back until the next plan moves them
    peaks: dict[str, int] = field(default_factory=dict)  # by map: most entries that it has meanwhile

    def __bool__(self) -> bool:
        return bool(self.writes)

    @property
    def writes(self) -> int:
        upserts = sum(len(items) for _, items in (*self.upserts, *self.questions, *self.closing))
        return upserts + len(self.endpoints) + sum(len(keys) for _, keys in self.deletes)


_PACKERS: tuple[tuple[str, Callable[..., bytes], Callable[..., bytes]], ...] = (
    ("servers", entries.pack_server, entries.pack_servers),
    ("parts", entries.pack_part, entries.pack_parts),
    ("rules", entries.pack_row, entries.pack_rule),
    ("hosts", entries.pack_host, entries.pack_classes),
    ("peers", entries.pack_prefix, entries.pack_classes),
    ("names", entries.pack_name, entries.pack_classes),
)


_OF_PREFIXES = frozenset({"peers", "names", "rules"})


def _order(plan: Plan) -> None:
    """Whole keys and long prefixes come first and go last: nothing falls to a wider prefix in between."""
    for name, items in plan.upserts:
        if name in _OF_PREFIXES:
            items.sort(key=lambda item: -_length(item[0]))
    for name, keys in plan.deletes:
        if name in _OF_PREFIXES:
            keys.sort(key=_length)
    plan.deletes.reverse()


def _length(key: bytes) -> int:
    """Of a prefix: the first field of every such key."""
    return int.from_bytes(key[: U32.size], sys.byteorder)


def plan_delta(delta: Delta) -> Plan:
    """The writes of one incremental step of the compiler; endpoints are added by add_endpoints."""
    plan = Plan()
    for name, pack_key, pack_value in _PACKERS:
        changes: dict[object, object | None] = getattr(delta, name)
        plan.upserts.append((name, [(pack_key(k), pack_value(v)) for k, v in changes.items() if v is not None]))
        plan.deletes.append((name, [pack_key(k) for k, v in changes.items() if v is None]))
        plan.peaks[name] = delta.sizes.get(name, 0) + len(plan.deletes[-1][1])
    _order(plan)
    return plan


def add_endpoints(plan: Plan, ops: EndpointOps) -> None:
    """Endpoints after everything they refer to; deletes of endpoints before those of rules."""
    plan.endpoints += [(pack_folder(cgroup), value) for cgroup, value in ops.entries.items() if value is not None]
    plan.deletes.insert(0, ("endpoints", [pack_folder(c) for c, value in ops.entries.items() if value is None]))


def questioning(epochs: Iterable[Item], nearby: Iterable[Item]) -> list[tuple[str, list[Item]]]:
    """The writes that call verdicts into question."""
    return [("epochs", list(epochs)), ("nearby", list(nearby))]


def deletes_addresses(plan: Plan) -> bool:
    return any(keys for name, keys in plan.deletes if name in _ADDRESSES)


def plan_whole(want: Want, maps: Mapping[str, Map]) -> Plan:
    """The writes that bring rules, peers, hosts and names to what is wanted, from whatever is in them now."""
    plan = Plan()
    for name, pack_key, pack_value in _PACKERS:
        have = dict(maps[name].items())
        wanted = {pack_key(k): pack_value(v) for k, v in getattr(want, name).items()}
        plan.upserts.append((name, [(k, v) for k, v in wanted.items() if have.get(k) != v]))
        plan.deletes.append((name, [k for k in have if k not in wanted]))
        plan.peaks[name] = len(have.keys() | wanted.keys())
    _order(plan)
    return plan


def rules_first(plan: Plan, rulesets: Collection[int]) -> Plan:
    """Takes out of a plan the deletes of rules of other rulesets than these: no endpoint may have one meanwhile."""
    first: list[bytes] = []
    for name, keys in plan.deletes:
        if name == "rules":
            first += (key for key in keys if _ruleset_of(key) not in rulesets)
            keys[:] = [key for key in keys if _ruleset_of(key) in rulesets]
    plan.peaks["rules"] -= len(first)
    return Plan(deletes=[("rules", first)], holds=True)


def deletes_first(plan: Plan) -> Plan:
    """Takes all deletes out of a plan: no endpoint may be judged meanwhile."""
    deletes, plan.deletes = plan.deletes, []
    for name, keys in deletes:
        plan.peaks[name] -= len(keys)
    return Plan(deletes=deletes, holds=True)


def _ruleset_of(key: bytes) -> int:
    return int(RULE_KEY.unpack(key)["ruleset"])


class Carrier:
    """Carries out the plans of one revision. A program that stalls between two of its reads must not see the first of
    one version and the second of the other, so some writes wait until no program runs that has read before them.
    """

    def __init__(self, maps: Mapping[str, Map], lock: SeqLock) -> None:
        self._maps, self._lock = maps, lock
        self._written: set[str] = set()  # since the last wait

    def apply(self, plan: Plan) -> None:
        """Stops at the first map that refuses; what was enforced before still is."""
        if any(items for _, items in plan.upserts) or plan.endpoints or any(keys for _, keys in plan.deletes):
            self._wait_for_readers_of(_MOVES)  # of the plan before
        self._put(plan.upserts)
        self._put(plan.questions)
        self._delete((name, keys) for name, keys in plan.deletes if name in _ADDRESSES)
        self._put([("endpoints", plan.endpoints)])
        self._put(plan.closing)
        self._delete((name, keys) for name, keys in plan.deletes if name not in _ADDRESSES)

    def _delete(self, deletes: Iterable[tuple[str, list[bytes]]]) -> None:
        for name, keys in deletes:
            if keys:
                self._wait_for_readers_of(_BEFORE_DELETES.get(name, _NOTHING))
                with self._lock.writing():
                    self._maps[name].delete_all(keys)
                self._written.add(name)

    def _put(self, upserts: Iterable[tuple[str, list[Item]]]) -> None:
        for name, items in upserts:
            if items:
                self._wait_for_readers_of(_BEFORE_UPSERTS.get(name, _NOTHING))
                with self._lock.writing():
                    self._maps[name].put_all(items)
                self._written.add(name)

    def _wait_for_readers_of(self, names: frozenset[str]) -> None:
        if names & self._written:
            self._maps["rules"].wait_for_readers()
            self._written.clear()


_NOTHING: frozenset[str] = frozenset()
_ADDRESSES = frozenset({"hosts", "peers", "names"})
_MOVES = _ADDRESSES | {"endpoints"}
"""Maps that lead to a rule."""
_BEFORE_UPSERTS = {"peers": frozenset({"hosts"})}
"""A program reads `hosts` first: one that has missed a new host there must not find the new prefix around it."""
_BEFORE_DELETES = {
    "peers": frozenset({"hosts", "peers"}),
    "names": frozenset({"names"}),
    "rules": _MOVES,
    "servers": _MOVES | {"rules"},
    "parts": _MOVES | {"rules"},
}
"""The same for a long prefix that goes while the short one around it changes. A rule goes when nothing leads to it,
nor any value that a running program has read."""
