"""Manifest files as people write them: YAML streams, JSON, Lists; bytes in, decoded documents with their lines out.

Nothing in a file may harm the agent: size, depth and number of nodes are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.errors import InvalidObject
from agent.sources.yaml_text import load

MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_DOCUMENTS = 10_000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Document:
    """One decoded object of a file. `line` (from 1) is where its document starts; `index` counts documents from 1."""

    line: int
    index: int
    body: Any


def decode(content: bytes, file: str) -> list[Document]:
    """The objects of a file, Lists taken apart, empty documents left out. InvalidObject if it cannot be read."""
    if len(content) > MAX_FILE_BYTES:
        raise InvalidObject(file, "", f"has more than {MAX_FILE_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidObject(file, "", f"is no UTF-8 text: byte {exc.start}") from exc
    documents = _json(text, file) if file.endswith(".json") else _yaml(text, file)
    flat = [each for document in documents for each in _members(document)]
    if len(flat) > MAX_DOCUMENTS:
        raise InvalidObject(file, "", f"has more than {MAX_DOCUMENTS} objects")
    return flat


def _members(document: Document) -> Iterator[Document]:
    body = document.body
    if body is None:
        return
    is_list = isinstance(body, dict) and str(body.get("kind", "")).endswith("List")
    if is_list and isinstance(body.get("items"), list):
        for member in body["items"]:
            yield Document(document.line, document.index, _with_kind(member, body))
    else:
        yield document


def _with_kind(member: Any, of: dict[str, Any]) -> Any:
    """Members of a PodList and the like may leave out what stands at the list."""
    kind = str(of["kind"]).removesuffix("List")
    if not isinstance(member, dict) or not kind:
        return member
    return {"apiVersion": of.get("apiVersion"), "kind": kind, **member}


def _json(text: str, file: str) -> list[Document]:
    try:
        body = json.loads(text, object_pairs_hook=_unique) if text.strip() else None
        if _SURROGATE.search(text):
            json.dumps(body, ensure_ascii=False).encode()  # a lone one could never be written to a log
        return [Document(1, 1, body)]
    except json.JSONDecodeError as exc:
        raise InvalidObject(f"{file}:{exc.lineno}", "", f"is no JSON: {exc.msg}") from exc
    except RecursionError as exc:
        raise InvalidObject(file, "", "is nested too deep") from exc
    except ValueError as exc:
        raise InvalidObject(file, "", str(exc)[:200]) from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"key {key[:60]!r} is there twice")
        out[key] = value
    return out


def _yaml(text: str, file: str) -> list[Document]:
    return [Document(line, index, body) for index, (line, body) in enumerate(load(text, file), start=1)]
