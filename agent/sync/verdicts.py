"""The verdict of the kernel's maps on one packet, read from outside: the probes of bpf/judge.c.

For what no packet asks about: an open connection that is idle while a revision takes its rule away (P10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.abi.names import RULESET_BITS
from agent.abi.requests import name_of, parts_of
from agent.abi.structs import (
    CARRIES_TLS,
    CLASSES,
    GREETING,
    PARTS,
    PREFIX,
    REQUEST,
    RULE,
    RULE_AUDITS_HELLO,
    SERVER_KEY,
    SERVERS,
    pack_rule_key,
)
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction, Verdict
from agent.model.want import PORT_BITS, RulesetId, port_index
from agent.sync.entries import pack_part, pack_server
from agent.sync.learned import Reader, texts

_BITS = 128
_EVERY = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an open connection began with: `stored` by the kernel (struct greeting), or its last `request`.
    `has_sent`: data."""

    stored: bytes | None = None
    request: bytes | None = None
    has_sent: bool = False


def tcp_verdict(  # noqa: PLR0917  the order of the kernel's key
    maps: Mapping[str, Reader],
    endpoint: Mapping[str, Any],
    direction: Direction,
    peer: bytes,
    port: int,
    greeting: Greeting = Greeting(),
) -> Verdict:
    """`endpoint`: value of `endpoints`, unpacked; `peer`: 16 bytes, IPv4 mapped; `port`: the service's.

    Of a connection that is open: the names of its peer do not expire meanwhile.
    """
    rule = _on_address(maps, endpoint, direction, peer, port)
    verdict, lifts = Verdict(rule["verdict"]), rule["lift"] and direction is Direction.EGRESS
    fits = _Fits(maps, endpoint["ruleset"], greeting)
    if fits.passes(rule) or not lifts:
        return verdict if fits.passes(rule) else Verdict.DENY
    classes = (maps["names"].get(text) for text in texts(maps, endpoint["identity"], peer))
    rows = (_row(maps, endpoint, CLASSES.unpack(each)["peer"], direction, port) for each in classes if each)
    return Verdict.ALLOW if any(row is not None and fits.passes(row) for row in rows) else Verdict.DENY


@dataclass(slots=True)
class _Fits:
    """Which rows a connection passes, by what it began with. The map is asked only where a row asks."""

    maps: Mapping[str, Reader]
    ruleset: int
    greeting: Greeting
    _bits: tuple[int, int] | None = None

    def passes(self, row: Mapping[str, Any]) -> bool:
        if row["verdict"] == Verdict.DENY:
            return False
        if not row["hellos"] | row["requests"] or row["flags"] & RULE_AUDITS_HELLO:
            return True
        if self._bits is None:
            self._bits = self._hellos(), self._requests()
        return bool(row["hellos"] & self._bits[0] or row["requests"] & self._bits[1])

    def _requests(self) -> int:
        """The bits of its last request, as bpf/request_match.c finds them; all if its next head is read just now."""
        stored = REQUEST.unpack(self.greeting.request) if self.greeting.request else None
        if stored is None or not stored["carries"]:
            return 0 if self.greeting.has_sent else _EVERY
        if stored["fault"] or stored["carries"] == CARRIES_TLS:
            return 0
        if stored["in_head"] or not stored["made"]:
            return _EVERY
        host = self.maps["servers"].get(pack_server((RulesetId(self.ruleset), name_of(stored))))
        bits = SERVERS.unpack(host)["hosts"] if host is not None else 0
        for part in parts_of(stored):
            found = self.maps["parts"].get(pack_part((RulesetId(self.ruleset), part)))
            bits &= PARTS.unpack(found)["bits"] if found is not None else 0
        return int(bits)

    def _hellos(self) -> int:
        """The bits of its hello: of one that has sent nothing yet, all; what has sent what nobody has seen, none."""
        stored = GREETING.unpack(self.greeting.stored) if self.greeting.stored else None
        if stored is None or not stored["seen"]:
            return self._begun(stored) if self.greeting.has_sent else _EVERY
        key = SERVER_KEY.pack(**{**SERVER_KEY.unpack(stored["key"]), "ruleset": self.ruleset})
        if stored["fault"] or (raw := self.maps["servers"].get(key)) is None:
            return 0
        found = SERVERS.unpack(raw)
        bits = found["named"] if SERVER_KEY.unpack(key)["length"] > RULESET_BITS else found["nameless"]
        bits &= found["start_tls"] if stored["start_tls"] else ~found["start_tls"]
        return int(bits & found["encrypted"] if stored["encrypted"] else bits)

    def _begun(self, stored: Mapping[str, Any] | None) -> int:
        """Of one that has sent an SSLRequest and no hello yet: those that ask for it."""
        raw = self.maps["servers"].get(pack_server((RulesetId(self.ruleset), "")))
        return int(SERVERS.unpack(raw)["start_tls"]) if raw is not None and stored and stored["start_tls"] else 0


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
