"""Text from objects for people: nothing in it may move a cursor, turn a line or look like another line. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

_ASCII = re.compile(r"[ -~]*")


def printable(text: str, *, keep: str = "") -> str:
    """For terminals, Events, statuses and plain text: what has no picture of its own is spelled out, as in `\\x1b`.

    keep: signs that stay as they are all the same.
    """
    if _ASCII.fullmatch(text):
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text
    )  # fmt: skip


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that reads back exactly, and whose text may be shown: such signs are its own escapes, as in `\\u202e`."""
    text = json.dumps(value, indent=indent, default=str, ensure_ascii=False)
    if _ASCII.fullmatch(text):
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
