"""On which line of a manifest file a field of an object stands: for people who mend it. Pure.

For text that `manifests.decode` has read: its bounds hold here too. JSON is read as YAML, which it nearly always is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from agent.parse.objects import ObjectName, object_name

_UNKNOWN = re.compile(r"unknown field '([^']+)'")
_INDEX = re.compile(r"\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class _Member:
    document: int
    name: ObjectName
    node: yaml.Node


@dataclass(frozen=True, slots=True)
class Lines:
    """The objects of one file, members of Lists among them."""

    members: tuple[_Member, ...] = field(default=())

    @classmethod
    def of(cls, content: bytes) -> Lines:
        """No members where the text cannot be read."""
        try:
            text = content.decode("utf-8-sig")
            nodes = list(yaml.compose_all(text, Loader=yaml.CSafeLoader))
        except (yaml.YAMLError, ValueError):
            return cls()
        found = [each for number, node in enumerate(nodes, 1) if node for each in _members(number, node)]
        return cls(tuple(found))

    def line(self, name: str, path: str = "", problem: str = "", document: int = 0) -> int:
        """From 1; of the field, else of the nearest one above it that is there; 0: no such object here.

        name: as ObjectName's text; document: counted from 1, where one is known.
        """
        named = [each for each in self.members if str(each.name) == name]
        found = next((each for each in named if each.document == document), named[0] if named else None)
        if found is None:
            return 0
        unknown = _UNKNOWN.match(problem)
        return _line(found.node, f"{path}.{unknown[1]}".lstrip(".") if unknown else path)


def _members(document: int, node: yaml.Node) -> Iterator[_Member]:
    keys = _keys(node)
    kind, items = _text(keys.get("kind")), keys.get("items")
    if kind.endswith("List") and isinstance(items, yaml.SequenceNode):
        for item in items.value:
            yield _Member(document, _name(item, kind.removesuffix("List")), item)
    else:
        yield _Member(document, _name(node, ""), node)


def _name(node: yaml.Node, kind: str) -> ObjectName:
    keys = _keys(node)
    metadata = _keys(keys.get("metadata"))
    known = {key: _text(metadata.get(key)) or None for key in ("namespace", "name")}
    return object_name({"kind": _text(keys.get("kind")) or kind, "metadata": known})


def _keys(node: yaml.Node | None) -> dict[str, yaml.Node]:
    return {_text(key): value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _line(node: yaml.Node, path: str) -> int:
    """Keys may have dots in them: the longest that is there counts."""
    line, rest = node.start_mark.line, path
    while rest:
        index = _INDEX.match(rest)
        if index and isinstance(node, yaml.SequenceNode) and int(index[1]) < len(node.value):
            node = node.value[int(index[1])]
            line, rest = node.start_mark.line, rest[index.end() :].lstrip(".")
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        fitting = [(key, value) for key, value in pairs if _begins(rest, _text(key))]
        if not fitting:
            break
        key, node = max(fitting, key=lambda pair: len(_text(pair[0])))
        line, rest = key.start_mark.line, rest[len(_text(key)) :].lstrip(".")
    return line + 1


def _begins(path: str, key: str) -> bool:
    return bool(key) and path.startswith(key) and path[len(key) : len(key) + 1] in ("", ".", "[")
