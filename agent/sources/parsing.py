"""Objects of strangers, parsed so that none costs the others: what trips the parser up is invalid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agent.errors import InvalidObject
from agent.not_understood import NotUnderstood

T = TypeVar("T")


def parsed(parse: Callable[[], T], name: str, broken: NotUnderstood) -> T:
    """What `parse` returns. Raises InvalidObject, whatever it may raise; what is no InvalidObject is noted, too."""
    try:
        return parse()
    except InvalidObject:
        raise
    except RecursionError as exc:
        raise InvalidObject(name, "", "is nested too deep") from exc
    except Exception as exc:
        broken.note(exc)
        problem = f"cannot be read, which is a defect of dagwall: {repr(exc)[:200]}"
        raise InvalidObject(name, "", problem) from exc
