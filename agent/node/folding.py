"""`denials` kept small: what gone pods were denied is added up by identity, in entries of slot 0, and stays exact.

The kernel writes entries of slot 0 for identity 0 only; all others of slot 0 are this module's. A move is four
writes: a journal entry with the sum as it will be, the old entry's deletion, the sum, the journal entry's deletion.
The journal's key is the old one with a bit more in `slot`: whoever finds one after a death completes the move, or
leaves it to the next.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Collection, Container, Iterable
from typing import Protocol

from agent.abi.structs import DENIAL_KEY
from agent.errors import MapError
from agent.flows.decode import RawDenials, decode_denials
from agent.sync.allocate import OVERFLOW_IDENTITY

BATCH = 1000
"""Moves at a time: each costs some microseconds, and whoever reads the totals waits."""
SUMS_SHARE = 4
"""Sums of identities take so small a part of the map: the rest is for those that are here."""
_TO_IDENTITY, _TO_NOBODY = 1 << 31, 1 << 30  # journal: to the same identity's sum, or to the overflow's
_SLOT, _RULE, _IDENTITY = (DENIAL_KEY.offsets[name] for name in ("slot", "rule", "identity"))
_COUNTS = struct.Struct("=QQ")


class Map(Protocol):
    """`denials`."""

    entries: int

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> bool: ...
    def items(self) -> list[tuple[bytes, bytes]]: ...


class Folding:
    """Any thread; one move at a time. Readers see no move half done."""

    def __init__(self, denials: Map) -> None:
        """Completes what an agent before has begun."""
        self._map, self._lock = denials, threading.Lock()
        self._seen: dict[bytes, bytes] = {}  # entries of slots that were nobody's at the last look
        for key, value in denials.items():
            if _word(key, _SLOT) & (_TO_IDENTITY | _TO_NOBODY):
                self._complete(key, value)

    def totals(self) -> list[RawDenials]:
        """Exact denials by slot, rule and reason, since the programs were first loaded."""
        with self._lock:
            return [decode_denials(key, value) for key, value in self._map.items()]

    def fold(self, taken: Callable[[], Container[int]], used: Callable[[], Collection[int]]) -> None:
        """From time to time. `taken`: slots that somebody has; `used`: identities likewise, empty while unknown.

        An entry moves when its slot was nobody's and it did not change between two looks: no packet is under way.
        """
        with self._lock:
            slots = taken()
            items = self._map.items()
            left = {
                k: v for k, v in items if _word(k, _SLOT) and _word(k, _IDENTITY) and _word(k, _SLOT) not in slots
            }
            still = [(key, value) for key, value in left.items() if self._seen.get(key) == value]
            for key, value in still[:BATCH]:
                if _word(key, _SLOT) not in taken():  # it may have been given to somebody meanwhile
                    self._move(key, value, _TO_IDENTITY)
                    del left[key]
            self._seen = left
            if sum(_is_sum(key) for key, _ in items) > self._map.entries // SUMS_SHARE:
                self._squeeze(used())

    def give_up(self, numbers: Iterable[int]) -> None:
        """These identities' numbers are to be given to others: their sums become the overflow's."""
        wanted = set(numbers)
        with self._lock:
            for key, value in self._map.items():
                if _word(key, _IDENTITY) in wanted:
                    self._move(key, value, _TO_NOBODY)

    def _squeeze(self, used: Collection[int]) -> None:
        """The smallest sums of identities that nobody has, so that nothing large loses its name."""
        sums = [item for item in self._map.items() if _is_sum(item[0])]
        gone = sorted(
            (item for item in sums if _word(item[0], _IDENTITY) not in used), key=lambda i: _COUNTS.unpack(i[1])
        )
        for key, value in gone[:BATCH] if used else ():
            self._move(key, value, _TO_NOBODY)

    def _move(self, key: bytes, value: bytes, kind: int) -> None:
        """One entry's counts to where they belong now."""
        target = _target(key, kind)
        total = _sum(value, self._map.get(target))
        journal = _with(key, _SLOT, _word(key, _SLOT) | kind)
        try:
            self._map.put(journal, total)
        except MapError:  # full, and only deletions make room
            journal = b""
        self._map.delete(key)
        self._map.put(target, total)
        if journal:
            self._map.delete(journal)

    def _complete(self, journal: bytes, total: bytes) -> None:
        kind = _word(journal, _SLOT) & (_TO_IDENTITY | _TO_NOBODY)
        key = _with(journal, _SLOT, _word(journal, _SLOT) & ~kind)
        if self._map.get(key) is None:
            self._map.put(_target(key, kind), total)
        self._map.delete(journal)


def _target(key: bytes, kind: int) -> bytes:
    own = _with(key, _SLOT, 0)
    return own if kind == _TO_IDENTITY else _with(_with(own, _RULE, 0), _IDENTITY, OVERFLOW_IDENTITY)


def _is_sum(key: bytes) -> bool:
    """Of an identity, not of the overflow."""
    return not _word(key, _SLOT) and _word(key, _IDENTITY) > OVERFLOW_IDENTITY


def _word(key: bytes, offset: int) -> int:
    return int(struct.unpack_from("=I", key, offset)[0])


def _with(key: bytes, offset: int, value: int) -> bytes:
    return key[:offset] + struct.pack("=I", value) + key[offset + 4 :]


def _sum(value: bytes, more: bytes | None) -> bytes:
    return _COUNTS.pack(
        *(a + b for a, b in zip(_COUNTS.unpack(value), _COUNTS.unpack(more or bytes(16)), strict=True))
    )
