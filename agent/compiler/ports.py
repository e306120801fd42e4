"""Ports as intervals of port indexes, and as the prefixes under which map `rules` finds them.

A rule's ports cost rows by what its own author wrote, never by what others name: an interval is so many prefixes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from agent.model.policy import PortMatch
from agent.model.protocol import WITH_PORTS, IpProtocol
from agent.model.want import FIRST_ORDINARY, PORT_BITS, PORT_INDEXES, PortIndex, PortPrefix, port_index

Interval = tuple[PortIndex, PortIndex]
"""First and last port index."""

Ports = tuple[Interval, ...]

ORDINARY_PORTS: Ports = ((FIRST_ORDINARY, PORT_INDEXES - 1),)
"""All of TCP, UDP, ICMP and ICMPv6: what a rule without `ports` means (P4)."""

EVERY_PORT: Ports = ((0, PORT_INDEXES - 1),)
"""Every port of every protocol: what a NetworkPolicy rule without `ports` means."""

DNS_PORTS: Ports = tuple((port_index(protocol, 53),) * 2 for protocol in (IpProtocol.TCP, IpProtocol.UDP))

WHOLE: PortPrefix = (0, 0)
FEW = 8


def covers(ports: Ports, index: PortIndex) -> bool:
    """Is the index one of these?"""
    for low, high in ports:  # noqa: SIM110  the compiler's innermost loop; any() takes twice the time
        if low <= index <= high:
            return True
    return False


def together(each: Iterable[Ports]) -> Ports:
    """The same ports, disjoint and in order."""
    found: list[Interval] = []
    for low, high in sorted({interval for ports in each for interval in ports}):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def covers_in_order(ports: Ports, index: PortIndex) -> bool:
    """As `covers`, of what `together` returns: many ports cost little more than few."""
    if len(ports) < FEW:
        return covers(ports, index)
    at = bisect_right(ports, (index, PORT_INDEXES)) - 1
    return at >= 0 and index <= ports[at][1]


def interval(match: PortMatch) -> Interval:
    """Of a match without a name."""
    first = port_index(match.protocol, match.port or 0)
    last = match.end_port or match.port or 65535
    return first, port_index(match.protocol, last) if match.protocol in WITH_PORTS else first


def intersection(a: Iterable[Interval], b: Collection[Interval]) -> tuple[Interval, ...]:
    """What both cover."""
    found = {(max(lo, low), min(hi, high)) for lo, hi in a for low, high in b}
    return tuple(sorted((lo, hi) for lo, hi in found if lo <= hi))


def prefixes(ports: Iterable[Interval]) -> Iterator[PortPrefix]:
    """The fewest prefixes that cover each of these intervals, and nothing else."""
    return (prefix for low, high in ports for prefix in _of_interval(low, high))


@lru_cache(maxsize=1024)
def rows_of(ports: Ports) -> int:
    """How many prefixes those are."""
    return sum(1 for _ in prefixes(ports))


def last_of(prefix: PortPrefix) -> PortIndex:
    first, length = prefix
    return first + (1 << (PORT_BITS - length)) - 1


def own_parts(given: Collection[PortPrefix]) -> Iterator[tuple[PortPrefix, PortIndex]]:
    """Of each that has ports in no longer one of these, the first such port. What holds others comes before them."""
    every = sorted(given)
    free = dict[PortPrefix, PortIndex]()
    around: list[PortPrefix] = []
    for prefix in every:
        while around and last_of(around[-1]) < prefix[0]:
            around.pop()
        if around and free[around[-1]] == prefix[0]:
            free[around[-1]] = last_of(prefix) + 1
        free[prefix] = prefix[0]
        around.append(prefix)
    return ((prefix, free[prefix]) for prefix in every if free[prefix] <= last_of(prefix))


def _of_interval(low: PortIndex, high: PortIndex) -> Iterator[PortPrefix]:
    while low <= high:
        free = PORT_BITS if low == 0 else (low & -low).bit_length() - 1
        bits = min(free, (high - low + 1).bit_length() - 1)
        yield low, PORT_BITS - bits
        low += 1 << bits
