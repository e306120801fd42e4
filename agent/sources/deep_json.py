"""JSON of the API server, in which one object must not make all others unreadable. Pure.

A CRD that keeps unknown fields keeps them at any depth (etcd and Go's decoder take 10,000 levels); Python's decoder
gives up at about a thousand, and with it a whole list. What dagwall reads is never deeper than MOST_LEVELS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MOST_LEVELS = 100
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def loads(data: bytes) -> Any:
    """As json.loads, with `null` in place of what is nested too deep. Raises ValueError."""
    try:
        return json.loads(data)
    except RecursionError:
        return json.loads(b"".join(_shallow(data)))


def _shallow(data: bytes) -> Iterator[bytes]:
    """The text without what is deeper than MOST_LEVELS; of text that is no JSON something that is none either."""
    level = kept = 0
    for token in _TOKEN.finditer(data):
        first = token.group()[:1]
        if first in b"[{":
            level += 1
            if level == MOST_LEVELS + 1:
                yield data[kept : token.start()] + b"null"
        elif first in b"]}":
            if level == MOST_LEVELS + 1:
                kept = token.end()
            level -= 1
    yield data[kept:] if level <= MOST_LEVELS else b"]"
