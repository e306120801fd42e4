"""The verdict of the kernel's maps on one packet, read from outside: the probes of bpf/judge.c.

For what no packet asks about: an open connection that is idle while a revision takes its rule away (P10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.abi.structs import (
    CLASSES,
    PREFIX,
    RULE,
    pack_rule_key,
)
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction, Verdict
from agent.model.want import PORT_BITS, port_index
from agent.sync.carried import NOTHING, Fits, Greeting
from agent.sync.learned import Reader, texts

_BITS = 128


def tcp_verdict(  # noqa: PLR0917  the order of the kernel's key
    maps: Mapping[str, Reader],
    endpoint: Mapping[str, Any],
    direction: Direction,
    peer: bytes,
    port: int,
    greeting: Greeting = NOTHING,
) -> Verdict:
    """`endpoint`: value of `endpoints`, unpacked; `peer`: 16 bytes, IPv4 mapped; `port`: the service's.

    Of a connection that is open: the names of its peer do not expire meanwhile.
    """
    rule = _on_address(maps, endpoint, direction, peer, port)
    verdict, lifts = Verdict(rule["verdict"]), rule["lift"] and direction is Direction.EGRESS
    fits = Fits(maps, endpoint["ruleset"], greeting)
    if fits.passes(rule) or not lifts:
        return verdict if fits.passes(rule) else Verdict.DENY
    classes = (maps["names"].get(text) for text in texts(maps, endpoint["identity"], peer))
    rows = (_row(maps, endpoint, CLASSES.unpack(each)["peer"], direction, port) for each in classes if each)
    return Verdict.ALLOW if any(row is not None and fits.passes(row) for row in rows) else Verdict.DENY


def _on_address(
    maps: Mapping[str, Reader], endpoint: Mapping[str, Any], direction: Direction, peer: bytes, port: int
) -> Mapping[str, Any]:
    prefix = PREFIX.pack(length=_BITS, address=peer)
    found = maps["hosts"].get(prefix) or maps["peers"].get(prefix) or CLASSES.pack()
    classes = CLASSES.unpack(found)
    for peer_class in (classes["peer"], classes["base"]):
        if (row := _row(maps, endpoint, peer_class, direction, port)) is not None:
            return row
    return RULE.unpack(endpoint["defaults"], int(direction) * RULE.size)


def _row(
    maps: Mapping[str, Reader], endpoint: Mapping[str, Any], peer_class: int, direction: Direction, port: int
) -> Mapping[str, Any] | None:
    index = port_index(IpProtocol.TCP, port)
    raw = maps["rules"].get(pack_rule_key(endpoint["ruleset"], peer_class, int(direction), (index, PORT_BITS)))
    return RULE.unpack(raw) if raw is not None else None
