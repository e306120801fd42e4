"""Paths of HTTP requests in normal form, and the patterns that they match.

A text of bytes (latin-1): escapes are resolved, but for %2F, which stays what it is (SLASH_OF_ESCAPE). What servers
are known to understand differently is no path: bpf/request_read.c refuses the same.
"""

from __future__ import annotations

import re
import string

from agent.model.request import SLASH_OF_ESCAPE
from agent.model.verdict import DropReason

ANY_RUN = "*"
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})|%")
REFUSED = frozenset({*map(chr, range(0x20)), "\x7f", "%", ";", "\\", "\xc0", "\xc1"})
"""Bytes that no escape may stand for: controls, a second escape, what may be a slash elsewhere, or end a path."""
RAW = frozenset("!$&'()*+,-./:=@[]^_{|}~" + string.ascii_letters + string.digits)
"""Bytes that a path may have as they are. Not `;`: some servers cut what is behind it."""


def normal_path(target: str) -> tuple[str, DropReason]:
    """Of the path of a request's target, without its query; "" and the reason where it is none that can be judged."""
    if target == ANY_RUN:
        return target, DropReason.NONE
    if not target.startswith("/") or target.startswith("//") or not RAW.issuperset(target.replace("%", "")):
        return "", DropReason.BROKEN_REQUEST
    for found in _ESCAPE.finditer(target):
        if found[1] is None or chr(int(found[1], 16)) in REFUSED:
            return "", DropReason.BAD_ESCAPE
    text = _ESCAPE.sub(lambda found: _resolved(chr(int(found[1], 16))), target)
    return ("", DropReason.DOT_SEGMENT) if has_dots(text) else (text, DropReason.NONE)


def _resolved(byte: str) -> str:
    return SLASH_OF_ESCAPE if byte == "/" else byte


def has_dots(text: str) -> bool:
    """Is there a segment `.` or `..` in it, or an empty one before the last, which some servers merge away?"""
    *segments, last = text.replace(SLASH_OF_ESCAPE, "/").split("/")
    return any(segment in ("", ".", "..") for segment in segments[1:]) or last in (".", "..")


def matches_path(pattern: str, path: str) -> bool:
    """`*` in the pattern, once at most, matches any run of bytes."""
    before, star, after = pattern.partition(ANY_RUN)
    if not star:
        return path == pattern
    return len(path) >= len(before) + len(after) and path.startswith(before) and path.endswith(after)


def shown(path: str) -> str:
    """As people write it."""
    return path.replace(SLASH_OF_ESCAPE, "%2F").encode("latin-1").decode("utf-8", "replace")
