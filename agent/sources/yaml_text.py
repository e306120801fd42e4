"""YAML text to plain values, in one pass over libyaml's events; nothing is built that a bound has not admitted.

No tags, anchors or aliases (an alias bomb is a kilobyte; PyYAML's C composer overflows its stack on deep nesting), no
key twice. Plain scalars are the numbers of JSON, YAML 1.1's booleans as Kubernetes reads them, null, or the text that
they are: dates, base-60 and octal numbers stay text. Keys are text always.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from agent.errors import InvalidObject

MAX_DEPTH = 64
MAX_NODES = 1_000_000
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}(?:\.[0-9]{0,18}(?:[eE][-+]?[0-9]{1,3})?|[eE][-+]?[0-9]{1,3})")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {word: True for name in ("true", "yes", "on") for word in (name, name.capitalize(), name.upper())}
_WORDS |= {word: False for name in ("false", "no", "off") for word in (name, name.capitalize(), name.upper())}
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")


def load(text: str, file: str) -> Iterator[tuple[int, Any]]:
    """(line from 1, value) of each document of a stream. Raises InvalidObject that names file and line."""
    try:
        yield from _documents(text, file)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise InvalidObject(f"{file}:{line}", "", f"is no YAML: {exc.problem or exc.context}") from exc
    except yaml.YAMLError as exc:
        raise InvalidObject(file, "", f"is no YAML: {str(exc)[:200]}") from exc


def _documents(text: str, file: str) -> Iterator[tuple[int, Any]]:
    builder = _Builder(file)
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        if count > MAX_NODES:
            raise builder.error(event, f"has more than {MAX_NODES} nodes")
        if isinstance(event, yaml.ScalarEvent):
            builder.scalar(event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            builder.open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            builder.stack.pop()
        elif isinstance(event, yaml.AliasEvent):
            raise builder.error(event, f"alias *{str(event.anchor)[:60]}: aliases are not supported")
        elif isinstance(event, yaml.DocumentStartEvent):
            builder = _Builder(file)
        elif isinstance(event, yaml.DocumentEndEvent):
            yield builder.line, builder.root


_NO_KEY: Any = object()


@dataclass(slots=True)
class _Open:
    """A list or mapping that has not ended; `key` waits for its value."""

    values: list[Any] | dict[str, Any]
    key: Any = _NO_KEY


@dataclass(slots=True)
class _Builder:
    """One document in the making."""

    file: str
    root: Any = None
    line: int = 0
    stack: list[_Open] = field(default_factory=list)

    def error(self, event: yaml.Event, problem: str) -> InvalidObject:
        return InvalidObject(f"{self.file}:{_line(event)}", "", problem)

    def scalar(self, event: yaml.ScalarEvent) -> None:
        top = self.stack[-1] if self.stack else None
        if event.tag not in _TEXT_TAGS:
            raise self.error(event, f"tag {str(event.tag)[:60]!r}: tags are not supported")
        if top is not None and isinstance(top.values, dict) and top.key is _NO_KEY:
            if event.value in top.values:
                raise self.error(event, f"key {event.value[:60]!r} is there twice")
            top.key = event.value
        else:
            self._put(_plain(event.value) if event.implicit[0] else event.value, event)

    def open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        if event.tag is not None:
            raise self.error(event, f"tag {str(event.tag)[:60]!r}: tags are not supported")
        if len(self.stack) >= MAX_DEPTH:
            raise self.error(event, f"is nested deeper than {MAX_DEPTH} levels")
        values: list[Any] | dict[str, Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._put(values, event)
        self.stack.append(_Open(values))

    def _put(self, value: Any, event: yaml.Event) -> None:
        if not self.stack:
            self.root, self.line = value, _line(event)
            return
        top = self.stack[-1]
        if isinstance(top.values, list):
            top.values.append(value)
        elif top.key is _NO_KEY:
            raise self.error(event, "a key must be text")
        else:
            top.values[top.key] = value
            top.key = _NO_KEY


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "-+0123456789":
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
