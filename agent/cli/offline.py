"""Manifests as a cluster without an agent: for `policy check` and `policy explain --files`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.cli.settings import PolicySettings
from agent.errors import DagwallError, InvalidObject
from agent.model.cluster import Cluster
from agent.parse.objects import ObjectName, object_name
from agent.sources.manifest_set import ManifestSet
from agent.sources.manifests import decode
from agent.sources.store import TABLES, Store
from agent.sources.update import Problem

_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Offline:
    """What the files say, what is wrong with them, and where (`file:line`) each object stands."""

    cluster: Cluster
    problems: tuple[Problem, ...]
    places: Mapping[ObjectName, str]
    skipped: tuple[str, ...] = ()  # objects of kinds that dagwall does not read


def load(paths: Iterable[Path], read: PolicySettings) -> Offline:
    """Files, and folders with everything below them, as the agent reads them. Raises DagwallError."""
    manifests = ManifestSet(read.settings.cluster, read.managed_namespaces)
    places: dict[ObjectName, str] = {}
    for path in files_of(paths):
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise DagwallError(f"{path}: cannot be read: {exc.strerror}") from exc
        manifests.put(str(path), content)
        for name, place in _places(content, path):
            places.setdefault(name, place)
    items, problems = manifests.current()
    store = Store(Cluster(settings=read.settings))
    store.replace_all(items, tables=TABLES, complete=True)
    return Offline(store.snapshot, problems, places, manifests.skipped())


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Manifests; hidden files and folders below a given folder are not."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for found in sorted(path.rglob("*")):
            parts = found.relative_to(path).parts
            if found.suffix in _SUFFIXES and found.is_file() and not any(part.startswith(".") for part in parts):
                yield found


def _places(content: bytes, path: Path) -> Iterator[tuple[ObjectName, str]]:
    try:
        documents = decode(content, str(path))
    except InvalidObject:
        return  # a problem already
    for document in documents:
        yield object_name(document.body), f"{path}:{document.line}"
