"""A cursor over a decoded object that knows the path of every field, so that an error can name it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from agent.errors import InvalidObject

E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, slots=True)
class Field:
    """A value inside an object. `obj` names the object in errors, `path` the field: `spec.egress[0].to`."""

    obj: str
    path: str
    value: Any

    def error(self, problem: str) -> InvalidObject:
        return InvalidObject(self.obj, self.path, problem)

    def child(self, key: str) -> Field:
        """The field below a mapping; its value is None where the key is absent."""
        return self._below(key, self.mapping().get(key))

    def _below(self, key: str, value: Any) -> Field:
        return Field(self.obj, f"{self.path}.{key}" if self.path else key, value)

    def has(self, key: str) -> bool:
        return key in self.mapping()

    @property
    def absent(self) -> bool:
        return self.value is None

    def mapping(self, *allowed: str) -> dict[str, Any]:
        """This value as a mapping; with `allowed`, any other key is an error that lists what is allowed."""
        value = {} if self.value is None else self.value
        if not isinstance(value, dict):
            raise self.error(f"must be an object, not {_shown(value)}")
        for key in value if allowed else ():  # `child` asks without, once for each key of some mappings
            if key not in allowed:
                near = difflib.get_close_matches(str(key)[:200], allowed, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise self.error(f"unknown field {_shown(key)}; allowed: {', '.join(allowed)}{hint}")
        return value

    def items(self) -> Iterator[Field]:
        """The members of a list."""
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, not {_shown(self.value)}")
        for i, value in enumerate(self.value):
            yield Field(self.obj, f"{self.path}[{i}]", value)

    def optional_items(self, most: int | None = None) -> Iterator[Field]:
        """The members of a list that may be absent; `most`: how many there may be."""
        if most is not None and isinstance(self.value, list) and len(self.value) > most:
            raise self.error(f"has {len(self.value):,} items; at most {most:,} are allowed")
        return iter(()) if self.absent else self.items()

    def string(self, default: str | None = None) -> str:
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise self.error(f"must be a string, not {_shown(self.value)}")
        return self.value

    def nonempty(self) -> str:
        value = self.string()
        if not value:
            raise self.error("must not be empty")
        return value

    def boolean(self, *, default: bool) -> bool:
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            raise self.error(f"must be true or false, not {_shown(self.value)}")
        return self.value

    def integer(self, low: int, high: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not low <= self.value <= high:
            raise self.error(f"must be a whole number from {low} to {high}, not {_shown(self.value)}")
        return self.value

    def choice(self, of: type[E], default: E | None = None) -> E:
        """One member of an enumeration, by its value."""
        if self.value is None and default is not None:
            return default
        for member in of:
            if member.value == self.value:
                return member
        raise self.error(f"must be one of {', '.join(str(m.value) for m in of)}, not {_shown(self.value)}")

    def string_map(self) -> tuple[tuple[str, str], ...]:
        """A mapping of strings to strings, sorted by key."""
        return tuple(sorted((str(k), self._below(str(k), v).string("")) for k, v in self.mapping().items()))


def joined(words: Iterable[str]) -> str:
    """`a, b or c`"""
    *head, last = list(words)
    return f"{', '.join(head)} or {last}" if head else last


def _shown(value: Any) -> str:
    """As people wrote it: null, true and {"to": []} rather than Python's words for them."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
