"""Manifests as a cluster without an agent: for `policy check` and `policy explain --files`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.cli.settings import PolicySettings
from agent.cli.suspects import Suspect, suspects
from agent.errors import DagwallError, InvalidObject
from agent.model.cluster import Cluster
from agent.parse.objects import ObjectName, object_name
from agent.sources.lines import Lines
from agent.sources.manifest_set import ManifestSet
from agent.sources.manifests import decode
from agent.sources.store import TABLES, Store
from agent.sources.update import Problem

_SUFFIXES = (".yaml", ".yml", ".json")
STANDARD_INPUT = Path("-")


@dataclass(frozen=True, slots=True)
class Offline:
    """What is in the files, what is wrong with them, and in which file each object stands."""

    cluster: Cluster
    problems: tuple[Problem, ...]
    files: Mapping[ObjectName, str]
    contents: Mapping[str, bytes]
    suspects: tuple[Suspect, ...] = ()
    skipped: tuple[str, ...] = ()  # objects of kinds that dagwall does not read
    _lines: dict[str, Lines] = field(default_factory=dict)  # of files that were asked about

    def lines(self, file: str) -> Lines:
        if file not in self._lines:
            self._lines[file] = Lines.of(self.contents.get(file, b""))
        return self._lines[file]

    def place(self, name: ObjectName, path: str = "") -> str:
        """`file:line` of a field."""
        file = self.files.get(name, "?")
        line = self.lines(file).line(str(name), path)
        return f"{file}:{line}" if line else file

    def place_of(self, problem: Problem) -> str:
        """`file:line` of what is wrong, as far as the line is known."""
        error = problem.error
        if not problem.line:
            return error.obj if error.obj.startswith(f"{problem.file}:") else problem.file
        line = self.lines(problem.file).line(error.obj, error.field, error.problem, problem.document)
        return f"{problem.file}:{line or problem.line}"


def load(paths: Iterable[Path], read: PolicySettings) -> Offline:
    """Files, and folders with everything below them, as the agent reads them. Raises DagwallError."""
    manifests = ManifestSet(read.settings.cluster, read.managed_namespaces)
    files: dict[ObjectName, str] = {}
    contents: dict[str, bytes] = {}
    found: list[Suspect] = []
    for path in files_of(paths):
        contents[str(path)] = content = _read(path)
        manifests.put(str(path), content)
        for body in _bodies(content, path):
            files.setdefault(object_name(body), str(path))
            found += suspects(body)
    items, problems = manifests.current()
    store = Store(Cluster(settings=read.settings))
    store.replace_all(items, tables=TABLES, complete=True)
    return Offline(store.snapshot, problems, files, contents, tuple(found), manifests.skipped())


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Manifests; hidden files and folders below a given folder are not."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for found in sorted(path.rglob("*")):
            parts = found.relative_to(path).parts
            if (
                found.suffix.lower() in _SUFFIXES
                and found.is_file()
                and not any(part.startswith(".") for part in parts)
            ):
                yield found


def _read(path: Path) -> bytes:
    """`-` is standard input."""
    try:
        return sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    except OSError as exc:
        raise DagwallError(f"{path}: cannot be read: {exc.strerror}") from exc


def _bodies(content: bytes, path: Path) -> Iterator[Any]:
    try:
        documents = decode(content, str(path))
    except InvalidObject:
        return  # a problem already
    for document in documents:
        yield document.body
