"""IP protocols by number (IANA, Protocol Numbers)."""

from __future__ import annotations

from enum import IntEnum


class IpProtocol(IntEnum):
    """Those that dagwall tells apart; every other number is a protocol too."""

    ICMP = 1
    IGMP = 2
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    SCTP = 132


ORDINARY = frozenset({IpProtocol.ICMP, IpProtocol.TCP, IpProtocol.UDP, IpProtocol.ICMPV6})
"""What a rule without `ports` means (P4)."""

WITH_PORTS = (IpProtocol.TCP, IpProtocol.UDP, IpProtocol.SCTP)
