"""The last request of a connection, as its socket's storage has it: the parts by which it is looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.abi.structs import TEXT_ROOM
from agent.model.request import END, METHOD, PATH, PATH_END, PROXIED, TUNNEL

MOST_BYTES = 249
"""Of a part: bpf/request_match.c looks at no more."""
_METHOD, _AUTHORITY, _HOST, _PATH = range(4)
_AUTHORITY_PORT = 2
_ABSOLUTE, _TUNNEL = 4, 5


def name_of(request: Mapping[str, Any]) -> str:
    """Its host as a name; "" of an IPv6 address."""
    text = _text(request, _AUTHORITY if request["count"][_TUNNEL] else _HOST)
    return "" if text.startswith(b"[") else text.decode("latin-1")


def parts_of(request: Mapping[str, Any]) -> Iterator[bytes]:
    path = _text(request, _PATH)
    yield METHOD + _text(request, _METHOD) + END
    yield (PATH + path + END)[:MOST_BYTES]
    yield (PATH_END + path[::-1])[:MOST_BYTES]
    if request["count"][_TUNNEL] or request["count"][_ABSOLUTE]:
        kind = TUNNEL if request["count"][_TUNNEL] else PROXIED
        yield kind + request["number"][_AUTHORITY_PORT].to_bytes(8, "big")[-2:]


def _text(request: Mapping[str, Any], which: int) -> bytes:
    first = which * TEXT_ROOM
    return bytes(request["text"][first : first + request["used"][which]])
