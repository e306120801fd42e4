"""The writes of one step in their order: rules, peers and ports, endpoints, epochs; then deletes, of rules last.

A rule is there before anything refers to it, and goes after everything that did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from agent.abi.structs import PREFIX
from agent.model.want import Delta, Want
from agent.sync import entries
from agent.sync.endpoints import EndpointOps

Item = tuple[bytes, bytes]
K = TypeVar("K")
V = TypeVar("V")


class Map(Protocol):
    """A kernel map as plans write it; agent.kernel.maps.KernelMap and the tests' DictMap are ones."""

    def put_all(self, items: Iterable[Item]) -> None: ...
    def delete_all(self, keys: Iterable[bytes]) -> None: ...
    def items(self) -> list[Item]: ...


@dataclass(slots=True)
class Plan:
    """Steps that are carried out one after the other: (map, upserts), and at the end (map, keys to delete)."""

    upserts: list[tuple[str, list[Item]]] = field(default_factory=list)
    deletes: list[tuple[str, list[bytes]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(items for _, items in self.upserts) or any(keys for _, keys in self.deletes)

    @property
    def writes(self) -> int:
        return sum(len(items) for _, items in self.upserts) + sum(len(keys) for _, keys in self.deletes)


_PACKERS: tuple[tuple[str, Callable[..., bytes], Callable[..., bytes]], ...] = (
    ("rules", entries.pack_rule_key, entries.pack_rule),
    ("hosts", entries.pack_host, entries.pack_classes),
    ("peers", entries.pack_prefix, entries.pack_classes),
)


def _order(plan: Plan) -> None:
    """Exact addresses and long prefixes come first and go last: no address falls to a wider prefix in between."""
    for name, items in plan.upserts:
        if name == "peers":
            items.sort(key=lambda item: -int(PREFIX.unpack(item[0])["length"]))
    for name, keys in plan.deletes:
        if name == "peers":
            keys.sort(key=lambda key: int(PREFIX.unpack(key)["length"]))
    plan.deletes.reverse()


def plan_delta(delta: Delta) -> Plan:
    """The writes of one incremental step of the compiler; endpoints are added by add_endpoints."""
    plan = Plan()
    for name, pack_key, pack_value in _PACKERS:
        changes: dict[object, object | None] = getattr(delta, name)
        plan.upserts.append((name, [(pack_key(k), pack_value(v)) for k, v in changes.items() if v is not None]))
        plan.deletes.append((name, [pack_key(k) for k, v in changes.items() if v is None]))
    ports = [(entries.pack_index(k), entries.pack_u64(v or 0)) for k, v in delta.ports.items()]
    plan.upserts.insert(1, ("ports", ports))
    _order(plan)
    return plan


def add_endpoints(plan: Plan, ops: EndpointOps, epochs: Iterable[Item], nearby: Iterable[Item]) -> None:
    """Endpoints, then epochs, after everything they refer to; deletes of endpoints before those of rules."""
    changed = [(entries.pack_u64(cgroup), value) for cgroup, value in ops.entries.items() if value is not None]
    plan.upserts.append(("endpoints", changed))
    plan.upserts.append(("epochs", list(epochs)))
    plan.upserts.append(("nearby", list(nearby)))
    plan.deletes.insert(0, ("endpoints", [entries.pack_u64(c) for c, value in ops.entries.items() if value is None]))


def plan_whole(want: Want, maps: Mapping[str, Map]) -> Plan:
    """The writes that make rules, peers, hosts and ports say what is wanted, from whatever they say now."""
    plan = Plan()
    for name, pack_key, pack_value in _PACKERS:
        have = dict(maps[name].items())
        wanted = {pack_key(k): pack_value(v) for k, v in getattr(want, name).items()}
        plan.upserts.append((name, [(k, v) for k, v in wanted.items() if have.get(k) != v]))
        plan.deletes.append((name, [k for k in have if k not in wanted]))
    mentioned = {entries.pack_index(k): entries.pack_u64(v) for k, v in want.ports.items()}
    have = {k: v for k, v in maps["ports"].items() if v != entries.NO_PORT_CLASS}
    ports = [(k, v) for k, v in mentioned.items() if have.get(k) != v]
    ports += [(k, entries.NO_PORT_CLASS) for k in have if k not in mentioned]
    plan.upserts.insert(1, ("ports", ports))
    _order(plan)
    return plan


def apply(plan: Plan, maps: Mapping[str, Map]) -> None:
    """Carry the plan out. Stops at the first map that refuses; what was enforced before still is."""
    for name, items in plan.upserts:
        if items:
            maps[name].put_all(items)
    for name, keys in plan.deletes:
        if keys:
            maps[name].delete_all(keys)
