"""What an open connection carries, held against a row of `rules` from outside; as bpf/greeted.c, requested.c do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.abi.names import RULESET_BITS
from agent.abi.requests import name_of, parts_of
from agent.abi.structs import (
    CARRIES_TLS,
    CARRIES_TUNNEL,
    GREETING,
    PARTS,
    REQUEST,
    RULE_AUDITS_HELLO,
    SERVER_KEY,
    SERVERS,
)
from agent.model.verdict import Verdict
from agent.model.want import RulesetId
from agent.sync.entries import pack_part, pack_server
from agent.sync.learned import Reader

_EVERY = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an open connection began with: `stored` by the kernel (struct greeting), or its last `request`.
    `has_sent`: data."""

    stored: bytes | None = None
    request: bytes | None = None
    has_sent: bool = False


NOTHING = Greeting()


@dataclass(slots=True)
class Fits:
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
        """The bits of its last request, as bpf/request_match.c finds them. Those before may be answered still: they
        count by the entries that all had in common, while these have their bits. Of a head that is read just now no
        text is of what has passed: of another ruleset its bits say nothing, and the connection ends (P10).
        """
        stored = self._request()
        if stored is None:
            return 0 if self.greeting.has_sent else _EVERY
        if stored["fault"] or stored["carries"] == CARRIES_TLS:
            return 0
        same = SERVER_KEY.unpack(stored["key"])["ruleset"] == self.ruleset
        before = (stored["common"] or _EVERY) if same else _EVERY if stored["common"] else 0
        if not stored["made"] and not stored["cleared"]:
            return _EVERY
        if stored["in_head"] and not stored["cleared"]:
            return int(before) if same else 0
        host = self._servers(pack_server((RulesetId(self.ruleset), name_of(stored))))
        bits = int(host["hosts"])
        for part in parts_of(stored):
            found = self.maps["parts"].get(pack_part((RulesetId(self.ruleset), part)))
            bits &= PARTS.unpack(found)["bits"] if found is not None else 0
        if stored["made"] + stored["cleared"] > 1:
            bits &= before
        return bits & self._inside() if stored["carries"] == CARRIES_TUNNEL else bits

    def _hellos(self) -> int:
        """The bits of its hello: of one that has sent nothing yet, all; what has sent what nobody has seen, none."""
        stored, request = self._greeted(), self._request()
        if request is not None and request["carries"] != CARRIES_TLS:
            return 0
        if stored is None or not stored["seen"]:
            return self._begun(stored) if self.greeting.has_sent else _EVERY
        if stored["fault"]:
            return 0
        found, named = self._of_hello(stored)
        bits = found["named"] if named else found["nameless"]
        bits &= found["start_tls"] if stored["start_tls"] else ~found["start_tls"]
        return int(bits & found["encrypted"] if stored["encrypted"] else bits)

    def _begun(self, stored: Mapping[str, Any] | None) -> int:
        """Of one that has sent an SSLRequest and no hello yet: those that ask for it."""
        return int(self._servers(self._no_name)["start_tls"]) if stored and stored["start_tls"] else 0

    def _inside(self) -> int:
        """What a tunnel's beginning leaves of the bits of its request; all before it has one."""
        stored = self._greeted()
        if stored is None or not stored["seen"]:
            return _EVERY
        if stored["fault"]:
            return int(self._servers(self._no_name)["tunnel_any"])
        found, named = self._of_hello(stored)
        bits = found["tunnel_named"] if named else found["tunnel_nameless"]
        return int(bits & found["tunnel_encrypted"] if stored["encrypted"] else bits)

    def _request(self) -> Mapping[str, Any] | None:
        stored = REQUEST.unpack(self.greeting.request) if self.greeting.request else None
        return stored if stored is not None and stored["carries"] else None

    def _greeted(self) -> Mapping[str, Any] | None:
        return GREETING.unpack(self.greeting.stored) if self.greeting.stored else None

    def _of_hello(self, stored: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        """What `servers` has for it; does it have a name?"""
        key = {**SERVER_KEY.unpack(stored["key"]), "ruleset": self.ruleset}
        return self._servers(SERVER_KEY.pack(**key)), key["length"] > RULESET_BITS

    @property
    def _no_name(self) -> bytes:
        return pack_server((RulesetId(self.ruleset), ""))

    def _servers(self, key: bytes) -> Mapping[str, Any]:
        return SERVERS.unpack(self.maps["servers"].get(key) or SERVERS.pack())
