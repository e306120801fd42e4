"""A request of HTTP/1, as far as rules with `http` ask about it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.hello import Hello
from agent.model.verdict import DropReason

CONNECT = "CONNECT"
SLASH_OF_ESCAPE = "\x01"
"""Stands for %2F in a path in normal form: a slash that may, or may not, part two segments."""

METHOD, PATH, PATH_END, PROXIED, TUNNEL = b"M", b"P", b"E", b"A", b"C"
"""Kinds of parts of a request, by which it is looked up: the first byte of each (bpf/request_match.c)."""
END = b"\0"
"""Behind a part as a whole; without it, it is the beginning of longer ones."""


@dataclass(frozen=True, slots=True)
class Request:
    """`host` in lower case, without its port. `port`: that the request itself asks for, where it names whom a proxy
    is to reach: CONNECT, and the absolute form; 0: neither. `path`: in normal form (agent/semantics/paths.py); "" of
    CONNECT. `fault`: why it is none that can be judged. `inside`: with what its tunnel begins; None: nothing yet.
    """

    method: str
    host: str
    path: str = ""
    port: int = 0
    fault: DropReason = DropReason.NONE
    inside: Hello | None = None


Carried = Hello | Request
"""What a connection carries, as far as rules ask about it."""
