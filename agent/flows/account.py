"""Growth of flows between two reads of the kernel's map, and which entries have been idle long enough to go."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field

from agent.abi.layout import U64_MASK
from agent.abi.structs import FLOW, FLOW_KEY
from agent.flows.decode import RawFlow, decode_flow
from agent.model.flow import FlowCounts
from agent.model.protocol import IpProtocol

_LAST = FLOW.offsets["last"]
_PROTOCOL = FLOW_KEY.offsets["protocol"]
NOTHING = FlowCounts()
_HALF = 1 << 63


@dataclass(frozen=True, slots=True)
class Growth:
    """A flow that moved since the last read."""

    flow: RawFlow
    counts: FlowCounts
    new: bool


@dataclass(slots=True)
class Reading:
    """What one read of the map found."""

    growths: list[Growth] = field(default_factory=list)
    idle: list[bytes] = field(default_factory=list)  # keys to evict
    broken: list[Exception] = field(default_factory=list)  # of entries that cannot be read
    entries: int = 0


def is_stream(key: bytes) -> bool:
    """Is this key of `flows` one of TCP?"""
    return key[_PROTOCOL] == IpProtocol.TCP


class Accountant:
    """Remembers the last value of each flow, packed. What has not changed costs a comparison, not a decoding."""

    def __init__(self, *, datagram_idle_ticks: int, tcp_idle_ticks: int) -> None:
        self._datagram_idle, self._tcp_idle = datagram_idle_ticks, tcp_idle_ticks
        self._seen: dict[bytes, bytes] = {}
        self._kept: dict[bytes, int] = {}  # when an idle entry was kept: it is looked at again as if used then

    def read(self, items: Iterable[tuple[bytes, bytes]], now: int) -> Reading:
        """`items`: packed keys and values of the map; `now`: jiffies, low 32 bits, read before the map."""
        reading = Reading()
        for key, value in items:
            reading.entries += 1
            before = self._seen.get(key)
            if before != value:
                self._kept.pop(key, None)
                try:
                    growth = _growth(key, value, before)
                except Exception as exc:  # noqa: BLE001  the caller counts it: one entry must not hide the others
                    reading.broken.append(exc)
                    growth = None
                if growth is not None and _goes_back(growth.counts):
                    continue
                self._seen[key] = value
                if growth is not None:
                    reading.growths.append(growth)
            elif self._is_idle(key, value, now):
                reading.idle.append(key)
        return reading

    def keep(self, key: bytes, now: int) -> None:
        """An idle entry stays: it is idle again only after as long a time."""
        self._kept[key] = now

    def evicted(self, key: bytes, value: bytes) -> Growth | None:
        """What an entry that was taken out had counted since the last read; None where nothing."""
        self._kept.pop(key, None)
        growth = _growth(key, value, self._seen.pop(key, None))
        return None if growth is not None and _goes_back(growth.counts) else growth

    def _is_idle(self, key: bytes, value: bytes, now: int) -> bool:
        last = self._kept.get(key, int.from_bytes(value[_LAST : _LAST + 4], sys.byteorder))
        idle = (now - last) & 0xFFFFFFFF
        return (self._tcp_idle if key[_PROTOCOL] == IpProtocol.TCP else self._datagram_idle) < idle < 1 << 31


def _growth(key: bytes, value: bytes, before: bytes | None) -> Growth | None:
    """None where only the verdict or the clock moved. An entry that was made again counts from zero."""
    flow = decode_flow(key, value)
    old = decode_flow(key, before) if before is not None else None
    if old is None or old.first != flow.first:
        return Growth(flow, flow.counts, new=True)
    counts = FlowCounts(*map(_minus, astuple(flow.counts), astuple(old.counts)))
    return Growth(flow, counts, new=False) if counts != NOTHING else None


def _minus(after: int, before: int) -> int:
    """Of counters modulo 2^64: below zero where the later one is the smaller."""
    return ((after - before + _HALF) & U64_MASK) - _HALF


def _goes_back(counts: FlowCounts) -> bool:
    """Was the entry read between two additions of a flush (bpf/skb.c, counter_take)? The next read has all of it."""
    return any(each < 0 for each in astuple(counts))
