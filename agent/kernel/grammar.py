"""How requests of HTTP/1 are read, byte by byte: the table that bpf/request_read.c follows (RFC 9112, 9110, 3986).

Strict: whatever two readers are known to understand differently leads to a reason. A state's number is its place
here, and is kept over an upgrade: new ones come last (bpf/types.h).
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from enum import IntEnum

from agent.abi.structs import GRAMMAR, GRAMMAR_STATES
from agent.model.request import CONNECT, SLASH_OF_ESCAPE
from agent.model.verdict import DropReason
from agent.semantics.paths import RAW, REFUSED

_DIGITS = string.digits
_LETTERS = string.ascii_letters
_TOKEN = frozenset(_LETTERS + _DIGITS + "!#$%&'*+-.^_`|~")
_TEXT = frozenset({"\t", *map(chr, range(0x20, 0x7F)), *map(chr, range(0x80, 0x100))})
_SPACE = frozenset(" \t")
_LABEL = frozenset(_LETTERS + _DIGITS + "-_")
_QUERY = frozenset(map(chr, range(0x21, 0x7F))) - {"#"}


class Act(IntEnum):
    """enum act of bpf/types.h"""

    NONE = 0
    METHOD = 1
    AUTHORITY = 2
    HOST = 3
    PATH = 4
    LENGTH = 5
    CHUNK_SIZE = 6
    AUTHORITY_PORT = 7
    HOST_PORT = 8
    HAS_HOST = 9
    HAS_LENGTH = 10
    HAS_CODING = 11
    IS_OLD = 12
    IS_ABSOLUTE = 13
    IS_TUNNEL = 14
    HEAD_ENDS = 15
    CHUNK = 16
    FAIL = 17


Step = tuple[str, Act, int]


class _Table:
    """States by name, in the order in which they are first named."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.steps: dict[tuple[str, str], Step] = {}
        self.otherwise: dict[str, DropReason] = {}

    def state(self, name: str, otherwise: DropReason) -> str:
        """`otherwise`: why bytes that have no step fail."""
        self.numbers.setdefault(name, len(self.numbers))
        self.otherwise[name] = otherwise
        return name

    def on(self, state: str, chars: Iterable[str], to: str, act: Act = Act.NONE, value: int | None = None) -> None:
        """The first step that is told for a byte counts. `value`: else the byte itself."""
        for char in chars:
            self.steps.setdefault((state, char), (to, act, ord(char) if value is None else value))

    def fails(self, state: str, chars: Iterable[str], reason: DropReason) -> None:
        self.on(state, chars, "start", Act.FAIL, int(reason))


def packed() -> bytes:
    """Value of map `grammar`."""
    table = _whole()
    if len(table.numbers) > GRAMMAR_STATES:
        raise ValueError(f"{len(table.numbers)} states, {GRAMMAR_STATES} fit")
    steps = [0] * (GRAMMAR_STATES * 256)
    for name, number in table.numbers.items():
        for byte in range(256):
            failing = ("start", Act.FAIL, int(table.otherwise[name]))
            to, act, value = table.steps.get((name, chr(byte)), failing)
            steps[number << 8 | byte] = table.numbers[to] | act << 8 | value << 16
    return GRAMMAR.pack(steps=steps)


def states() -> dict[str, int]:
    """Numbers that bpf/request_read.c knows."""
    table = _whole()
    names = {"GRAMMAR_CHUNKS": "chunk", "GRAMMAR_TRAILER": "trailer", "GRAMMAR_VALUE": "value"}
    return {macro: table.numbers[name] for macro, name in names.items()}


def _whole() -> _Table:
    """In the order that gives the states their numbers."""
    table = _Table()
    for build in (_start, _target, _headers, _chunks):
        build(table)
    return table


def _start(t: _Table) -> None:
    """A method in capitals. CONNECT has a target of its own kind."""
    t.state("start", DropReason.NO_HTTP)
    t.state("method", DropReason.NO_HTTP)
    before = "start"
    for number, letter in enumerate(CONNECT, 1):
        name = t.state(f"method {CONNECT[:number]}", DropReason.NO_HTTP)
        t.on(before, letter, name, Act.METHOD)
        t.on(before, string.ascii_uppercase, "method", Act.METHOD)
        if before != "start":
            t.on(before, "-", "method", Act.METHOD)
            t.on(before, " ", "target")
        before = name
    t.on(before, string.ascii_uppercase + "-", "method", Act.METHOD)
    t.on(before, " ", "tunnel", Act.IS_TUNNEL)
    t.on("method", string.ascii_uppercase + "-", "method", Act.METHOD)
    t.on("method", " ", "target")


def _authority(t: _Table, name: str, put: Act, port: Act, reason: DropReason) -> tuple[str, ...]:
    """A name, or an IPv6 address in brackets, and a port. The states in which it may end; with a port last."""
    first, label, dot = (t.state(f"{name}{part}", reason) for part in ("", " label", " dot"))
    bracket, closed, colon, digits = (
        t.state(f"{name}{part}", reason) for part in (" bracket", " closed", " colon", " port")
    )
    for state in (first, label, dot):
        for char in sorted(_LABEL):
            t.on(state, char, label, put, ord(char.lower()))
    t.on(label, ".", dot, put)
    t.on(first, "[", bracket, put)
    for char in _DIGITS + "abcdefABCDEF:.":
        t.on(bracket, char, bracket, put, ord(char.lower()))
    t.on(bracket, "]", closed, put)
    for state in (label, closed):
        t.on(state, ":", colon)
    for state in (colon, digits):
        for char in _DIGITS:
            t.on(state, char, digits, port, int(char))
    return label, closed, digits


def _target(t: _Table) -> None:
    """Origin, absolute, authority and asterisk form (RFC 9112 section 3.2), and the version."""
    t.state("target", DropReason.BROKEN_REQUEST)
    t.on("target", "*", "asterisk", Act.PATH)
    t.on("target", "/", "first slash", Act.PATH)
    t.state("asterisk", DropReason.BROKEN_REQUEST)
    t.on("asterisk", " ", "version")
    before = "target"
    for number, char in enumerate("http://", 1):
        name = "absolute" if number == 7 else t.state(f"scheme {number}", DropReason.BROKEN_REQUEST)
        t.on(before, {char, char.upper()}, name, Act.IS_ABSOLUTE if number == 7 else Act.NONE)
        before = name
    for state in _authority(t, "absolute", Act.AUTHORITY, Act.AUTHORITY_PORT, DropReason.BROKEN_REQUEST):
        t.on(state, "/", "first slash", Act.PATH)
        t.on(state, "?", "query", Act.PATH, ord("/"))
        t.on(state, " ", "version", Act.PATH, ord("/"))
    *_, with_port = _authority(t, "tunnel", Act.AUTHORITY, Act.AUTHORITY_PORT, DropReason.BROKEN_REQUEST)
    t.on(with_port, " ", "version")
    _path(t)
    t.state("query", DropReason.BROKEN_REQUEST)
    t.on("query", _QUERY, "query")
    t.on("query", " ", "version")
    _version(t)


_PLACES = {"first slash": "slash", "slash": "slash", "one dot": "one dot", "two dots": "two dots", "path": "path"}
"""Where in a path a byte is; and behind an escape."""


def _path(t: _Table) -> None:
    """In normal form (agent/semantics/paths.py)."""
    for place in _PLACES:
        t.state(place, DropReason.BROKEN_REQUEST)
        for char in RAW:
            _in_path(t, place, char, char, place)
        _in_path(t, place, "?", "", place)
        _in_path(t, place, " ", "", place)
    for place in dict.fromkeys(_PLACES.values()):
        escape = t.state(f"escape, {place}", DropReason.BAD_ESCAPE)
        for high in string.hexdigits:
            name = t.state(f"escape {high.lower()}, {place}", DropReason.BAD_ESCAPE)
            t.on(escape, high, name)
            for low in string.hexdigits:
                byte = chr(int(high + low, 16))
                if byte not in REFUSED:
                    _in_path(t, name, low, byte, place, escaped=True)
    for place, behind in _PLACES.items():
        t.on(place, "%", f"escape, {behind}")


def _in_path(t: _Table, state: str, char: str, byte: str, place: str, *, escaped: bool = False) -> None:
    """`char` comes and stands for `byte`; "": it ends the path."""
    if byte in ("/", "") and place in ("one dot", "two dots"):
        t.fails(state, char, DropReason.DOT_SEGMENT)
    elif not byte:
        t.on(state, char, "query" if char == "?" else "version")
    elif byte == "/" and place in ("first slash", "slash"):
        fault = DropReason.BROKEN_REQUEST if place == "first slash" and not escaped else DropReason.DOT_SEGMENT
        t.fails(state, char, fault)
    elif byte == "/":
        t.on(state, char, "slash", Act.PATH, ord(SLASH_OF_ESCAPE if escaped else "/"))
    elif byte == ".":
        dots = {"first slash": "one dot", "slash": "one dot", "one dot": "two dots"}
        t.on(state, char, dots.get(place, "path"), Act.PATH, ord("."))
    else:
        t.on(state, char, "path", Act.PATH, ord(byte))


def _version(t: _Table) -> None:
    before = t.state("version", DropReason.NO_HTTP)
    for number, char in enumerate("HTTP/1.", 1):
        name = t.state(f"version {number}", DropReason.NO_HTTP)
        t.on(before, char, name)
        before = name
    t.fails("version 5", "2", DropReason.HTTP2)
    t.state("version ends", DropReason.NO_HTTP)
    t.on(before, "0", "version ends", Act.IS_OLD)
    t.on(before, "1", "version ends")
    t.on("version ends", "\r", "line ends")
    t.fails("version ends", "\n", DropReason.BARE_LINE_END)
    t.state("line ends", DropReason.BARE_LINE_END)
    t.on("line ends", "\n", "line")


_NAMES = ("host", "content-length", "transfer-encoding", "upgrade")


def _headers(t: _Table) -> None:
    t.state("line", DropReason.BAD_HEADER)
    t.on("line", "\r", "head ends")
    t.fails("line", "\n", DropReason.BARE_LINE_END)
    t.fails("line", _SPACE, DropReason.FOLDED_HEADER)
    t.state("head ends", DropReason.BARE_LINE_END)
    t.on("head ends", "\n", "start", Act.HEAD_ENDS)
    for name in _NAMES:
        before = "line"
        for number, letter in enumerate(name, 1):
            state = t.state(f"name {name[:number]}", DropReason.BAD_HEADER)
            t.on(before, {letter, letter.upper()}, state)
            before = state
    t.fails("name upgrade", ":", DropReason.UPGRADE)
    t.on("name host", ":", "host ")
    t.on("name content-length", ":", "length ")
    t.on("name transfer-encoding", ":", "coding ")
    t.state("name", DropReason.BAD_HEADER)
    for state in [each for each in t.numbers if each.startswith("name")]:
        t.on(state, _TOKEN, "name")
        t.on(state, ":", "value")
        t.fails(state, _SPACE, DropReason.SPACE_IN_HEADER)
        t.fails(state, "\n", DropReason.BARE_LINE_END)
    t.on("line", _TOKEN, "name")
    t.state("value", DropReason.BAD_HEADER)
    t.on("value", _TEXT, "value")
    t.on("value", "\r", "line ends")
    t.fails("value", "\n", DropReason.BARE_LINE_END)
    _values(t)


def _values(t: _Table) -> None:
    """Of the three headers that matter."""
    t.state("host ", DropReason.BAD_HOST)
    t.on("host ", _SPACE, "host ")
    ends = _authority(t, "host ", Act.HOST, Act.HOST_PORT, DropReason.BAD_HOST)
    _ends(t, ends, "host ends", Act.HAS_HOST, DropReason.BAD_HOST)
    t.state("length ", DropReason.REQUEST_LENGTH)
    t.on("length ", _SPACE, "length ")
    t.state("length", DropReason.REQUEST_LENGTH)
    for state in ("length ", "length"):
        for char in _DIGITS:
            t.on(state, char, "length", Act.LENGTH, int(char))
    _ends(t, ("length",), "length ends", Act.HAS_LENGTH, DropReason.REQUEST_LENGTH)
    before = t.state("coding ", DropReason.REQUEST_LENGTH)
    t.on("coding ", _SPACE, "coding ")
    for number, letter in enumerate("chunked", 1):
        name = t.state(f"coding {number}", DropReason.REQUEST_LENGTH)
        t.on(before, {letter, letter.upper()}, name)
        before = name
    _ends(t, (before,), "coding ends", Act.HAS_CODING, DropReason.REQUEST_LENGTH)


def _ends(t: _Table, states: Iterable[str], name: str, act: Act, reason: DropReason) -> None:
    """Of a value, with spaces behind it or without."""
    t.state(name, reason)
    for state in (*states, name):
        t.on(state, _SPACE, name)
        t.on(state, "\r", "line ends", act)
        t.fails(state, "\n", DropReason.BARE_LINE_END)


def _chunks(t: _Table) -> None:
    """Chunked coding without extensions (RFC 9112 section 7.1): sizes, the line ends behind data, and trailers."""
    for name in ("chunk", "size", "size ends", "data", "data ends"):
        t.state(name, DropReason.BAD_CHUNK)
    for state in ("chunk", "size"):
        for char in string.hexdigits:
            t.on(state, char, "size", Act.CHUNK_SIZE, int(char, 16))
    t.on("size", "\r", "size ends")
    t.on("size ends", "\n", "data", Act.CHUNK)
    t.on("data", "\r", "data ends")
    t.on("data ends", "\n", "chunk")
    t.state("trailer", DropReason.BAD_HEADER)
    t.state("trailer name", DropReason.BAD_HEADER)
    t.state("trailer value", DropReason.BAD_HEADER)
    t.state("trailer line ends", DropReason.BARE_LINE_END)
    t.state("trailer ends", DropReason.BARE_LINE_END)
    t.on("trailer", "\r", "trailer ends")
    t.on("trailer ends", "\n", "start", Act.CHUNK)
    t.fails("trailer", _SPACE, DropReason.FOLDED_HEADER)
    t.on("trailer", _TOKEN, "trailer name")
    t.on("trailer name", _TOKEN, "trailer name")
    t.on("trailer name", ":", "trailer value")
    t.on("trailer value", _TEXT, "trailer value")
    t.on("trailer value", "\r", "trailer line ends")
    t.on("trailer line ends", "\n", "trailer")
    for state in ("trailer", "trailer name", "trailer value"):
        t.fails(state, "\n", DropReason.BARE_LINE_END)
    t.fails("trailer name", _SPACE, DropReason.SPACE_IN_HEADER)
