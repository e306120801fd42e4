"""The verdict of the kernel's maps on one packet, read from outside: the four probes of bpf/judge.c.

For what no packet asks about: an open connection that is idle while a revision takes its rule away (P10).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

from agent.abi.structs import CLASSES, PREFIX, RULE, RULE_KEY, U32
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction, Verdict
from agent.model.want import PORT_ANY, port_index

_BITS = 128


class Reader(Protocol):
    """One map: `get` answers a lookup as a program's would be answered."""

    def get(self, key: bytes) -> bytes | None: ...


def tcp_verdict(
    maps: Mapping[str, Reader], endpoint: Mapping[str, Any], direction: Direction, peer: bytes, port: int
) -> Verdict:
    """`endpoint`: value of `endpoints`, unpacked; `peer`: 16 bytes, IPv4 mapped; `port`: the service's."""
    prefix = PREFIX.pack(length=_BITS, address=peer)
    found = maps["hosts"].get(prefix) or maps["peers"].get(prefix) or CLASSES.pack()
    classes = CLASSES.unpack(found)
    mentioned = int.from_bytes(
        maps["ports"].get(U32.pack(value=port_index(IpProtocol.TCP, port))) or b"", sys.byteorder
    )
    for peer_class in (classes["peer"], classes["base"]):
        for port_class in (mentioned or PORT_ANY, PORT_ANY):
            key = RULE_KEY.pack(
                length=_BITS,
                ruleset=endpoint["ruleset"],
                peer_class=peer_class,
                port_class=port_class,
                direction=int(direction),
            )
            rule = maps["rules"].get(key)
            if rule is not None:
                return Verdict(RULE.unpack(rule)["verdict"])
    return Verdict(RULE.unpack(endpoint["defaults"], int(direction) * RULE.size)["verdict"])
