"""Longest-prefix matching in user space: what holds for every address of a prefix.

All addresses are 128 bits, IPv4 mapped into ::ffff:0:0/96. A native IPv6 prefix around that range does not hold IPv4.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from agent.model.cluster import Address
from agent.model.policy import CidrPeer, Network
from agent.model.want import Host, Prefix

A = TypeVar("A")
V = TypeVar("V")

MAPPED_BITS = 0xFFFF << 32
EVERYTHING: Prefix = (0, 0)
MAPPED: Prefix = (MAPPED_BITS, 96)


def host_of(address: Address) -> Host:
    return int(address) | MAPPED_BITS if address.version == 4 else int(address)


def prefix_of(network: Network) -> Prefix:
    first = int(network.network_address)
    return (first | MAPPED_BITS, network.prefixlen + 96) if network.version == 4 else (first, network.prefixlen)


def cut(host: Host, length: int) -> Prefix:
    """The prefix of this length that the address is in."""
    return (host >> (128 - length) << (128 - length), length)


def holds(outer: Prefix, inner: Prefix) -> bool:
    return outer[1] <= inner[1] and cut(inner[0], outer[1]) == outer


def memberships(items: Mapping[CidrPeer, frozenset[A]]) -> dict[Prefix, frozenset[A]]:
    """For every prefix where something begins or ends: the union over the items that hold its addresses.

    An address has the value of its longest prefix. ::/0 and ::ffff:0:0/96 are always there.
    One pass over the sorted prefixes with a stack of what is open.
    """
    begins: dict[Prefix, list[int]] = {EVERYTHING: [], MAPPED: []}
    ends: dict[Prefix, list[int]] = {}
    tags = list(items.values())
    for i, item in enumerate(items):
        begins.setdefault(prefix_of(item.network), []).append(i)
        holes = [prefix_of(hole) for hole in item.excluded]
        if item.network.version == 6 and holds(prefix_of(item.network), MAPPED):
            holes.append(MAPPED)
        for hole in holes:
            ends.setdefault(hole, []).append(i)
            begins.setdefault(hole, [])
    found: dict[Prefix, frozenset[A]] = {}
    unions: dict[frozenset[int], frozenset[A]] = {}
    stack: list[tuple[Prefix, frozenset[int]]] = []
    for prefix in sorted(begins):
        while stack and not holds(stack[-1][0], prefix):
            stack.pop()
        active = stack[-1][1] if stack else frozenset()
        active = active.union(begins[prefix]).difference(ends.get(prefix, ()))
        stack.append((prefix, active))
        if active not in unions:
            unions[active] = frozenset(tag for i in active for tag in tags[i])
        found[prefix] = unions[active]
    return found


class Guard:
    """Ranges that no wider CIDR includes (P11, P12)."""

    def __init__(self, networks: Iterable[Network]) -> None:
        found = sorted((prefix_of(network), network) for network in set(networks))
        self._firsts, self._found = [prefix[0] for prefix, _ in found], found

    def without(self, peer: CidrPeer) -> CidrPeer:
        """The CIDR with a hole for each of the ranges that lies in it and is smaller."""
        first, length = prefix_of(peer.network)
        at, after = bisect_left(self._firsts, first), bisect_right(self._firsts, first + (1 << (128 - length)) - 1)
        holes = [
            network
            for (_, each), network in self._found[at:after]
            if each > length and network.version == peer.network.version
        ]
        return replace(peer, excluded=(*peer.excluded, *holes)) if holes else peer


def compressed(values: Mapping[Prefix, V]) -> Iterator[tuple[Prefix, V]]:
    """Leaves out prefixes that have the value of the prefix around them; never the two roots."""
    stack: list[tuple[Prefix, V]] = []
    for prefix in sorted(values):
        while stack and not holds(stack[-1][0], prefix):
            stack.pop()
        value = values[prefix]
        if stack and stack[-1][1] == value and prefix != MAPPED:
            continue
        stack.append((prefix, value))
        yield prefix, value


class Lpm(Generic[V]):
    """Longest-prefix match over a mapping: one dict probe for each length that occurs."""

    def __init__(self, values: Mapping[Prefix, V]) -> None:
        self._values = values
        self._lengths = sorted({length for _, length in values}, reverse=True)

    def get(self, host: Host, default: V, longest: int = 128) -> V:
        """The value of the longest prefix, of at most `longest` bits, that holds the address."""
        for length in self._lengths:
            if length <= longest:
                value = self._values.get(cut(host, length))
                if value is not None:
                    return value
        return default
