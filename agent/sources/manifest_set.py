"""All manifest files of a directory as one set of objects, each in its last valid generation (P17). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from agent.errors import InvalidObject, NoRoom
from agent.model.cluster import Namespace, Pod
from agent.model.identity import PodUid
from agent.model.weight import weight_of
from agent.not_understood import NotUnderstood
from agent.parse.cluster_objects import NAME_LABEL
from agent.parse.object_kinds import Item
from agent.parse.objects import ObjectName, is_foreign, object_name, parse_object
from agent.sources.manifests import Document, decode
from agent.sources.parsing import parsed
from agent.sources.room import Room
from agent.sources.store import Key, key_of
from agent.sources.update import Problem


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file or folder that is there and cannot be read: what was read from it before stays in force."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Entry:
    item: Item
    line: int
    document: int


@dataclass(frozen=True, slots=True)
class _File:
    """What is in a file, and what is wrong with it. An invalid object is here in its last valid generation."""

    entries: Mapping[ObjectName, _Entry] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    invalid: frozenset[ObjectName] = frozenset()  # never valid in this file
    skipped: tuple[str, ...] = ()  # objects of kinds that dagwall does not read
    freed: int = 0  # the room's, when it was read


@dataclass(slots=True)
class ManifestSet:
    """Files in, objects and problems out. Of two objects with one name, the first by path order is in force."""

    cluster: str = "default"
    managed_namespaces: frozenset[str] = frozenset()
    broken: NotUnderstood = field(default_factory=lambda: NotUnderstood("object"))
    room: Room = field(default_factory=Room)
    _files: dict[str, _File] = field(default_factory=dict)
    _in_force: dict[ObjectName, tuple[str, _Entry]] = field(default_factory=dict)

    def put(self, file: str, content: bytes | Unreadable) -> None:
        """A file is new or has changed."""
        old = self._files.get(file, _File())
        if isinstance(content, Unreadable):
            problem = Problem(file, 0, 0, InvalidObject(file, "", content.reason))
            self._files[file] = replace(old, problems=(problem,))
            return
        try:
            documents = parsed(lambda: decode(content, file), file, self.broken)
        except InvalidObject as error:
            self._files[file] = replace(old, problems=(Problem(file, 0, 0, error.to_keep()),))
            return
        if not documents and old.entries:
            why = "holds no object any more; what it held stays in force until the file is removed"
            self._files[file] = replace(old, problems=(Problem(file, 0, 0, InvalidObject(file, "", why)),))
            return
        self._files[file] = self._read(file, documents, old)
        self.room.keep(file, self._files[file].entries.keys())

    def remove(self, file: str) -> None:
        """A file has gone, and with it its objects."""
        self._files.pop(file, None)
        self.room.keep(file, ())

    def may_fit(self) -> frozenset[str]:
        """Files with objects that found no room, and something has given room back since they were read."""
        return frozenset(
            path
            for path, file in self._files.items()
            if file.freed != self.room.freed and any(isinstance(each.error, NoRoom) for each in file.problems)
        )

    def current(self) -> tuple[dict[Key, Item], tuple[Problem, ...]]:
        """Everything in force, and everything that is wrong."""
        problems = [problem for _, file in sorted(self._files.items()) for problem in file.problems]
        chosen: dict[ObjectName, tuple[str, _Entry]] = {}
        uids: dict[PodUid, ObjectName] = {}
        for path, name, entry in self._entries():
            error = _conflict(name, entry.item, chosen, uids)
            if error is not None:
                problems.append(Problem(path, entry.line, entry.document, error))
                continue
            chosen[name] = (path, entry)
            if isinstance(entry.item, Pod):
                uids[entry.item.uid] = name
        for name in {name for file in self._files.values() for name in file.invalid} - chosen.keys():
            if name in self._in_force:  # it moved here from another file, and was valid there
                chosen[name] = self._in_force[name]
        for name in self._lived_in(chosen):
            path, _ = chosen[name] = self._in_force[name]
            why = "is in no file any more, and pods of it are; it stays what it was"
            problems.append(Problem(path, 0, 0, InvalidObject(str(name), "", why)))
        self._in_force = chosen
        items = {key_of(entry.item): entry.item for _, entry in chosen.values()}
        return {**self._implied(chosen), **items}, tuple(problems)

    def skipped(self) -> tuple[str, ...]:
        """What was left out because dagwall does not read its kind: no error, but logged."""
        return tuple(text for _, file in sorted(self._files.items()) for text in file.skipped)

    def _lived_in(self, chosen: Mapping[ObjectName, tuple[str, _Entry]]) -> list[ObjectName]:
        """Namespaces that were in force and are gone, while pods of them are there (L2)."""
        gone = [name for name in self._in_force if name.kind == "Namespace" and name not in chosen]
        homes = {name.namespace for name in chosen if name.kind == "Pod"} if gone else set()
        return [name for name in gone if name.name in homes]

    def _entries(self) -> Iterator[tuple[str, ObjectName, _Entry]]:
        for path, file in sorted(self._files.items()):
            for name, entry in file.entries.items():
                yield path, name, entry

    def _read(self, file: str, documents: list[Document], old: _File) -> _File:
        entries: dict[ObjectName, _Entry] = {}
        freed = self.room.freed
        problems: list[Problem] = []
        invalid: set[ObjectName] = set()
        skipped: list[str] = []
        for document in documents:
            name = object_name(document.body)
            where = (file, document.line, document.index)
            if is_foreign(document.body):
                skipped.append(f"{file}:{document.line}: {name}: skipped, dagwall reads no {name.kind}")
                continue
            if name in entries:
                text = (
                    f"is there twice in {file}, line {entries[name].line} and {document.line}; the first is in force"
                )
                problems.append(Problem(*where, InvalidObject(str(name), "", text)))
                continue
            try:
                item = parsed(lambda: self._parse(document.body), str(name), self.broken)  # noqa: B023  at once
                self.room.take(file, name, weight_of(item))
                entries[name] = _Entry(item, document.line, document.index)
            except InvalidObject as error:
                problems.append(Problem(*where, error.to_keep()))
                invalid.add(name)
                if name in old.entries:
                    entries[name] = old.entries[name]
        nameless = any(not (name.kind and name.name) for name in invalid)  # may be any of the old ones
        kept = {name: entry for name, entry in old.entries.items() if nameless and name not in entries}
        return _File({**entries, **kept}, tuple(problems), frozenset(invalid - entries.keys()), tuple(skipped), freed)

    def _parse(self, body: object) -> Item:
        return parse_object(body, cluster=self.cluster, managed_namespaces=self.managed_namespaces)

    def _implied(self, chosen: Mapping[ObjectName, tuple[str, _Entry]]) -> dict[Key, Item]:
        """Namespaces that nobody wrote down and that exist, because flags name them or something is in them."""
        names = self.managed_namespaces | {name.namespace for name in chosen if name.namespace}
        implied = [
            Namespace(name=name, labels=((NAME_LABEL, name),), managed=name in self.managed_namespaces)
            for name in sorted(names)
        ]
        return {key_of(namespace): namespace for namespace in implied}


def _conflict(
    name: ObjectName,
    item: Item,
    chosen: Mapping[ObjectName, tuple[str, _Entry]],
    uids: Mapping[PodUid, ObjectName],
) -> InvalidObject | None:
    if name in chosen:
        path, entry = chosen[name]
        return InvalidObject(
            str(name), "", f"is in {path}, line {entry.line}, too; that one is in force, this is not"
        )
    if isinstance(item, Pod) and item.uid in uids:
        return InvalidObject(
            str(name), "metadata.uid", f"{item.uid} is the uid of {uids[item.uid]}, which is in force"
        )
    return None
