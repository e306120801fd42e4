"""YAML text to plain values, in one pass over libyaml's events; nothing is built that a bound has not admitted.

No tags, no key twice. Aliases and merge keys (`<<`) are as kubectl takes them, and count for all that they stand
for: an alias bomb is a kilobyte (and PyYAML's C composer overflows its stack on deep nesting). Plain scalars are the
numbers of JSON, YAML 1.1's booleans as Kubernetes reads them, null, or the text that they are: dates, base-60 and
octal numbers stay text. Keys are text always.
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
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.ScalarEvent):
            builder.scalar(event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            builder.open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            builder.close(event)
        elif isinstance(event, yaml.AliasEvent):
            builder.alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            builder = _Builder(file, builder.nodes)
        elif isinstance(event, yaml.DocumentEndEvent):
            yield builder.line, builder.root


_NO_KEY: Any = object()
_MERGE: Any = object()
"""The key `<<`."""


@dataclass(frozen=True, slots=True)
class _Anchored:
    """A value with a name, and what it stands for: nodes and levels."""

    value: Any
    nodes: int
    levels: int


@dataclass(slots=True)
class _Open:
    """A list or mapping that has not ended; `key` waits for its value."""

    values: list[Any] | dict[str, Any]
    anchor: str | None
    before: int  # nodes before it
    key: Any = _NO_KEY
    levels: int = 1
    merges: list[Any] = field(default_factory=list)

    @property
    def wants_key(self) -> bool:
        return isinstance(self.values, dict) and self.key is _NO_KEY


@dataclass(slots=True)
class _Builder:
    """One document in the making; `nodes` are those of the documents before it, too."""

    file: str
    nodes: int = 0
    root: Any = None
    line: int = 0
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, _Anchored] = field(default_factory=dict)

    def error(self, event: yaml.Event, problem: str) -> InvalidObject:
        return InvalidObject(f"{self.file}:{_line(event)}", "", problem)

    def scalar(self, event: yaml.ScalarEvent) -> None:
        if event.tag not in _TEXT_TAGS:
            raise self.error(event, f"tag {str(event.tag)[:60]!r}: tags are not supported")
        self._count(event, 1)
        top = self.stack[-1] if self.stack else None
        plain = bool(event.implicit[0])
        if top is not None and top.wants_key:
            self._key(top, event.value, event, merges=plain and event.value == "<<")
            value = event.value
        else:
            value = _plain(event.value) if plain else event.value
            self._put(value, event)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchored(value, 1, 0)

    def open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        if event.tag is not None:
            raise self.error(event, f"tag {str(event.tag)[:60]!r}: tags are not supported")
        if len(self.stack) >= MAX_DEPTH:
            raise self.error(event, f"is nested deeper than {MAX_DEPTH} levels")
        values: list[Any] | dict[str, Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._put(values, event)
        self.stack.append(_Open(values, event.anchor, self.nodes))
        self._count(event, 1)

    def close(self, event: yaml.Event) -> None:
        done = self.stack.pop()
        for merged in done.merges:  # the first wins, and what is written out goes before
            if not isinstance(merged, dict) or not isinstance(done.values, dict):
                raise self.error(event, "<<: must be a mapping, or a list of mappings")
            for key, value in merged.items():
                done.values.setdefault(key, value)
        if self.stack:
            self.stack[-1].levels = max(self.stack[-1].levels, done.levels + 1)
        if done.anchor is not None:
            self.anchors[done.anchor] = _Anchored(done.values, self.nodes - done.before, done.levels)

    def alias(self, event: yaml.AliasEvent) -> None:
        """The value itself, which nobody changes; an anchor that has not ended is none yet."""
        name = str(event.anchor)
        found = self.anchors.get(name)
        if found is None or any(each.anchor == name for each in self.stack):
            raise self.error(event, f"alias *{name[:60]}: no such anchor before it")
        if len(self.stack) + found.levels > MAX_DEPTH:
            raise self.error(event, f"alias *{name[:60]}: is nested deeper than {MAX_DEPTH} levels")
        self._count(event, found.nodes)
        top = self.stack[-1] if self.stack else None
        if top is not None:
            top.levels = max(top.levels, found.levels + 1)
        if top is not None and top.wants_key and isinstance(found.value, str):
            self._key(top, found.value, event, merges=False)
        else:
            self._put(found.value, event)

    def _count(self, event: yaml.Event, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self.error(event, f"has more than {MAX_NODES} nodes")

    def _key(self, top: _Open, key: str, event: yaml.Event, *, merges: bool) -> None:
        if key in top.values or (merges and top.merges):
            raise self.error(event, f"key {key[:60]!r} is there twice")
        top.key = _MERGE if merges else key

    def _put(self, value: Any, event: yaml.Event) -> None:
        if not self.stack:
            self.root, self.line = value, _line(event)
            return
        top = self.stack[-1]
        if isinstance(top.values, list):
            top.values.append(value)
        elif top.key is _NO_KEY:
            raise self.error(event, "a key must be text")
        elif top.key is _MERGE:
            top.merges, top.key = value if isinstance(value, list) else [value], _NO_KEY
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
