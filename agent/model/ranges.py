"""Ranges of addresses that the semantics name (P7, P11, P12). Values only: the compiler and the judge read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from agent.model.cluster import Address
from agent.model.policy import Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

SPECIAL: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16", "fe80::/10",  # link-local
        "224.0.0.0/4", "ff00::/8",  # multicast
        "240.0.0.0/4",  # reserved, and 255.255.255.255
        "64:ff9b:1::/48",  # NAT64 with a prefix of the operator's choice (RFC 8215): any IPv4 address, in any place
        "2001::/32",  # Teredo (RFC 4380): any IPv4 address, by its last 32 bits
    )
)  # fmt: skip
"""In no CIDR of an allow rule that is wider than they are, and not in `world` (P12)."""

ON_LINK: tuple[Network, ...] = tuple(
    ip_network(text) for text in ("fe80::/10", "224.0.0.0/24", "255.255.255.255/32", "ff01::/16", "ff02::/16")
)
"""What a pod sends there meets its node among others. For `deny`, they are entity `node` (P12)."""


def metadata_ranges(addresses: Iterable[Address]) -> tuple[Network, ...]:
    """The addresses themselves, and for IPv4 ones every IPv6 range that stands for one of them (P11)."""
    return tuple(dict.fromkeys(found for address in addresses for found in _forms(address)))


@lru_cache(maxsize=256)
def _forms(address: Address) -> tuple[Network, ...]:
    if isinstance(address, IPv6Address):
        return (ip_network(address),)
    return (ip_network(address), *_embedded(address))


def _embedded(address: IPv4Address) -> Iterator[IPv6Network]:
    """RFC 4291 (compatible), 2765 (translated), 3056 (6to4), 4380 (Teredo's server), 6052 and 8215 (NAT64)."""
    for prefix in ("::/96", "::ffff:0:0:0/96", "2002::/16", "2001::/32", "64:ff9b::/96"):
        yield _placed(IPv6Network(prefix), address)
    for length in (48, 56, 64, 96):
        yield _placed(IPv6Network(f"64:ff9b:1::/{length}"), address)


def _placed(prefix: IPv6Network, address: IPv4Address) -> IPv6Network:
    """The IPv4 address behind a prefix. From 48 bits on, bits 64 to 71 stay zero (RFC 6052, section 2.2)."""
    length, bits = prefix.prefixlen, int(address)
    if not 48 <= length <= 64:
        end = length + 32
        return IPv6Network((int(prefix.network_address) | bits << (128 - end), end))
    end = length + 40
    before = 64 - length  # bits of the address that stand before the zero octet
    high, low = bits >> (32 - before), bits & ((1 << (32 - before)) - 1)
    return IPv6Network((int(prefix.network_address) | high << 64 | low << (128 - end), end))
