"""Epochs of endpoints: a new one calls an endpoint's cached verdicts into question (maps `epochs`, `nearby`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from agent.abi.structs import EPOCH
from agent.model.verdict import Direction
from agent.sync.endpoints import EndpointTable
from agent.sync.entries import pack_epoch, pack_index, pack_nearby, unpack_index
from agent.sync.plan import Item, Map

Share = tuple[int, Direction]
"""(endpoint slot, who opened): what a pod opened, and what others opened to it, fill `flows` each for itself (S1)."""

_NO_EPOCH = (0, (0, 0))


class Epochs:
    """As they are to be in the kernel, by slot; with each, how many entries of `flows` were taken out."""

    def __init__(self, maps: Mapping[str, Map], endpoints: EndpointTable) -> None:
        """From what is in the maps; `endpoints` knows which entries of `nearby` lead to which slot."""
        self._maps, self._endpoints = maps, endpoints
        found = ((unpack_index(key), EPOCH.unpack(value)) for key, value in maps["epochs"].items())
        self._by_slot: dict[int, tuple[int, tuple[int, int]]] = {
            slot: (each["epoch"], each["evicted"]) for slot, each in found if each["epoch"] or any(each["evicted"])
        }
        self._last = max((epoch for epoch, _ in self._by_slot.values()), default=0)

    def renewed(self, slots: Iterable[int], nearby: Iterable[int]) -> tuple[list[Item], list[Item]]:
        """Entries of `epochs` with new ones for these slots, and of `nearby` as they are with them."""
        for slot in slots:
            _, evicted = self._by_slot.get(slot, _NO_EPOCH)
            self._by_slot[slot] = (self._next(), evicted)
        return self._packed(slots), self._packed_nearby(nearby)

    def evicted(self, by_share: Counter[Share]) -> None:
        """Write how many entries of `flows` were taken out, so that the kernel knows how much each share holds."""
        for (slot, direction), count in by_share.items():
            epoch, before = self._by_slot.get(slot, _NO_EPOCH)
            after = tuple(n + count * (d is direction) for d, n in zip(Direction, before, strict=True))
            self._by_slot[slot] = (epoch, (after[0], after[1]))
        self._maps["epochs"].put_all(self._packed({slot for slot, _ in by_share}))

    def differing(self) -> list[tuple[str, int]]:
        """By map: how many entries are not as they are to be."""
        have = dict(self._maps["epochs"].items())
        epochs = sum(have.get(key) != value for key, value in self._packed(self._by_slot))
        return [("epochs", epochs), ("nearby", self._differing_nearby())]

    def _differing_nearby(self) -> int:
        """An index that nobody holds may be all zeros, or absent."""
        held = self._endpoints.nearby_held()
        items = ((unpack_index(key), value) for key, value in self._maps["nearby"].items())
        have = {index: value for index, value in items if any(value) or index in held}
        want = {unpack_index(key): value for key, value in self._packed_nearby(have.keys() | held)}
        return sum(have.get(index) != value for index, value in want.items())

    def _next(self) -> int:
        """No two slots have the same, so that a flow is never current under another endpoint's."""
        self._last = (self._last + 1) & 0xFFFFFFFF or 1
        return self._last

    def _packed(self, slots: Iterable[int]) -> list[Item]:
        return [(pack_index(slot), pack_epoch(*self._by_slot[slot])) for slot in slots]

    def _packed_nearby(self, indexes: Iterable[int]) -> list[Item]:
        held = ((index, *self._endpoints.nearby_at(index)) for index in indexes)
        return [
            (pack_index(index), pack_nearby(cgroup, state, flags, self._by_slot.get(slot, _NO_EPOCH)[0]))
            for index, cgroup, state, flags, slot in held
        ]
