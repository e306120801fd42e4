"""Ports as intervals of port indexes, and port classes as what no policy tells apart."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise

from agent.compiler.interning import Interner
from agent.compiler.ledger import ChangeLog
from agent.model.policy import PortMatch
from agent.model.protocol import IpProtocol
from agent.model.want import (
    FIRST_PORT_CLASS,
    OTHER_PROTOCOLS,
    PORT_BASES,
    PORT_INDEXES,
    PortClass,
    PortIndex,
    port_index,
)

Interval = tuple[PortIndex, PortIndex]
"""First and last port index."""

Ports = tuple[Interval, ...] | None
"""None: all of TCP, UDP, ICMP and ICMPv6, which is what a rule without `ports` means (P4)."""

ANY_PORT = -1
"""A port of TCP or UDP, or ICMP or ICMPv6, that no interval mentions."""
OTHER_PORT = -2
"""Any other protocol, not mentioned either."""

EVERY_PORT: Ports = ((OTHER_PORT, PORT_INDEXES - 1),)
"""Every port of every protocol: what a NetworkPolicy rule without `ports` means."""

FEW = 8

DNS_PORTS: tuple[Interval, ...] = ((53, 53), (port_index(IpProtocol.UDP, 53),) * 2)
_ICMP = (port_index(IpProtocol.ICMP), port_index(IpProtocol.ICMPV6))


def is_ordinary(index: PortIndex) -> bool:
    """TCP, UDP, ICMP or ICMPv6: what a rule without `ports` covers (P4)."""
    return 0 <= index < PORT_BASES[IpProtocol.SCTP] or index in _ICMP or index == ANY_PORT


def covers(ports: Ports, index: PortIndex) -> bool:
    """Is the index, ANY_PORT or OTHER_PORT one of these?"""
    if ports is None:
        return is_ordinary(index)
    for low, high in ports:  # noqa: SIM110  the compiler's innermost loop; any() takes twice the time
        if low <= index <= high:
            return True
    return False


def together(each: Iterable[Ports]) -> Iterator[Ports]:
    """The same, as few as possible: what a rule without `ports` covers by itself, all else disjoint and in order."""
    intervals: list[Interval] = []
    for ports in dict.fromkeys(each):
        if ports is None:
            yield None
        else:
            intervals += ports
    found: list[Interval] = []
    for low, high in sorted(intervals):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    if found:
        yield tuple(found)


def covers_in_order(ports: Ports, index: PortIndex) -> bool:
    """As `covers`, of what `together` returns: many ports cost little more than few."""
    if ports is None or len(ports) < FEW:
        return covers(ports, index)
    at = bisect_right(ports, (index, PORT_INDEXES)) - 1
    return at >= 0 and index <= ports[at][1]


def mentioned(ports: Ports) -> tuple[Interval, ...]:
    """Intervals that tell ports apart."""
    return () if ports is None or ports == EVERY_PORT else ports


def interval(match: PortMatch) -> Interval:
    """Of a match without a name."""
    first = port_index(match.protocol, match.port or 0)
    if first >= OTHER_PROTOCOLS:
        return first, first
    last = match.end_port or match.port or 65535
    return first, port_index(match.protocol, last)


def intersection(a: Iterable[Interval], b: Collection[Interval]) -> tuple[Interval, ...]:
    """What both cover."""
    found = {(max(lo, low), min(hi, high)) for lo, hi in a for low, high in b}
    return tuple(sorted((lo, hi) for lo, hi in found if lo <= hi))


class PortTable:
    """Classes of the ports that intervals mention. Intervals are counted; `refresh` brings the classes up to date.

    The class of an index is the set of intervals that hold it, so time goes with intervals, not with their length.
    """

    def __init__(self, entries: ChangeLog[PortIndex, PortClass]) -> None:
        self._entries = entries
        self._counts: dict[Interval, int] = {}
        self._segments: list[tuple[PortIndex, PortIndex, frozenset[Interval]]] = []
        self._starts: list[PortIndex] = []
        self._stale = False
        self._cuts: list[PortIndex] = []
        self.classes: Interner[frozenset[Interval]] = Interner(
            FIRST_PORT_CLASS, lambda content: repr(sorted(content))
        )

    def add(self, intervals: Iterable[Interval]) -> None:
        for each in intervals:
            self._stale |= each not in self._counts
            self._counts[each] = self._counts.get(each, 0) + 1

    def remove(self, intervals: Iterable[Interval]) -> None:
        for each in intervals:
            self._counts[each] -= 1
            if not self._counts[each]:
                del self._counts[each]
                self._stale = True

    @property
    def stale(self) -> bool:
        """Have intervals come or gone since `refresh`?"""
        return self._stale

    def recut(self) -> None:
        """Before `pieces`, which counts what the next `refresh` will make."""
        self._cuts = sorted({cut for low, high in self._counts for cut in (low, high + 1)})

    def pieces(self, ports: Ports) -> int:
        """Into how many classes these ports fall, and those that nobody mentions."""
        if ports is None or ports == EVERY_PORT:
            return 2
        return sum(bisect_right(self._cuts, high) - bisect_right(self._cuts, low - 1) for low, high in ports)

    def within(self, low: PortIndex, high: PortIndex) -> Iterator[tuple[PortClass, PortIndex]]:
        """Classes that begin inside a mentioned interval, each with an index that has it."""
        for i in range(bisect_right(self._starts, low - 1), len(self._starts)):
            first, _, content = self._segments[i]
            if first > high:
                return
            yield PortClass(self.classes.numbers[content]), first

    def refresh(self) -> list[Interval]:
        """Recomputes the classes; returns the ranges of indexes whose class is another one now."""
        if not self._stale:
            return []
        self._stale = False
        old, new = self._segments, list(_segments(self._counts))
        for _, _, content in new:
            self.classes.acquire(content)
        for _, _, content in old:
            self.classes.release(content)
        self._segments, self._starts = new, [first for first, _, _ in new]
        changed = list(_differences(old, new))
        for low, high, after in changed:
            number = PortClass(self.classes.numbers[after]) if after else None
            for index in range(low, high + 1):
                self._entries.put(index, number)
        return [(low, high) for low, high, _ in changed]


Segment = tuple[PortIndex, PortIndex, frozenset[Interval]]


def _segments(intervals: Iterable[Interval]) -> Iterator[Segment]:
    """Cuts the index space where any interval begins or ends; leaves out what none mentions."""
    begins: dict[PortIndex, list[Interval]] = {}
    ends: dict[PortIndex, list[Interval]] = {}
    for each in intervals:
        begins.setdefault(each[0], []).append(each)
        ends.setdefault(each[1] + 1, []).append(each)
    active: set[Interval] = set()
    cuts = sorted(begins.keys() | ends.keys())
    for cut, after in pairwise(cuts):
        active.difference_update(ends.get(cut, ()))
        active.update(begins.get(cut, ()))
        if active:
            yield cut, after - 1, frozenset(active)


def _differences(old: list[Segment], new: list[Segment]) -> Iterator[Segment]:
    """Ranges whose content differs, with the new content (empty: none)."""
    cuts = sorted({cut for low, high, _ in (*old, *new) for cut in (low, high + 1)})
    i = j = 0
    for low, after in pairwise(cuts):
        while i < len(old) and old[i][1] < low:
            i += 1
        while j < len(new) and new[j][1] < low:
            j += 1
        was = old[i][2] if i < len(old) and old[i][0] <= low else frozenset()
        is_ = new[j][2] if j < len(new) and new[j][0] <= low else frozenset()
        if was != is_:
            yield low, after - 1, is_
