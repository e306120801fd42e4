"""One kind of object in the API, by list and watch: answers of the server in, changes of the store out. Pure.

Duplicates and stale events change nothing; deletions that were missed come out of the next list; an object that
cannot be read keeps its last valid generation (P17).
Source: Kubernetes API concepts, "Efficient detection of changes".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.errors import InvalidObject, NoRoom
from agent.model.binding import TaskIdentityBinding
from agent.model.policy import Policy, PolicyRef
from agent.model.validated import ValidatedPolicy, Written
from agent.model.weight import weight_of
from agent.not_understood import NotUnderstood
from agent.parse.object_kinds import Item
from agent.parse.objects import ObjectName, object_name
from agent.sources.essence import essence
from agent.sources.parsing import parsed
from agent.sources.room import Room
from agent.sources.store import Key, key_of

Parse = Callable[[Mapping[str, Any]], Item]
"""Raises InvalidObject."""

Page = tuple[Iterable[Mapping[str, Any]], str]
"""Objects, and the version of the list."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What to list and watch. `api_version` as in objects: `v1`, `discovery.k8s.io/v1`."""

    kind: str
    api_version: str
    plural: str
    field_selector: str = ""
    for_reports: bool = False  # no verdict follows from it
    optional: bool = False  # served only where a CRD or a newer server has it
    judged: bool = False  # has a status that agents write: generations and statuses are kept
    kept: bool = False  # the last valid generation outlives the agent (P17)

    @property
    def path(self) -> str:
        """For all namespaces."""
        prefix = "/api" if "/" not in self.api_version else "/apis"
        return f"{prefix}/{self.api_version}/{self.plural}"

    def typed(self, obj: Mapping[str, Any]) -> dict[str, Any]:
        """Members of a list come without kind and apiVersion."""
        return {"kind": self.kind, "apiVersion": self.api_version, **obj}


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from one answer. `relist`: the watch cannot go on."""

    upserts: tuple[Item, ...] = ()
    deletes: tuple[Key, ...] = ()
    relist: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    uid: str
    version: int
    key: Key | None  # None: never valid
    judged: ValidatedPolicy | None = None
    source: Mapping[str, Any] = field(default_factory=dict)  # the last valid generation, where it is kept


@dataclass(frozen=True, slots=True)
class Listing:
    """A complete list that was read and is not in force yet."""

    known: Mapping[ObjectName, _Known]
    problems: Mapping[ObjectName, InvalidObject]
    upserts: tuple[Item, ...]
    version: str


@dataclass(slots=True)
class Reflector:
    """State of one resource. `version` is where the next watch begins, "" before the first list.

    `remembered`: objects, by uid, that an earlier agent had in force; each counts until its first valid generation.
    `room`: of all resources together.
    """

    resource: Resource
    parse: Parse
    version: str = ""
    newest: int = 0  # the highest version that was ever seen
    problems: dict[ObjectName, InvalidObject] = field(default_factory=dict)
    remembered: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    broken: NotUnderstood = field(default_factory=lambda: NotUnderstood("object"))
    room: Room = field(default_factory=Room)
    _freed: int = 0  # the room's, when a list was read last
    _known: dict[ObjectName, _Known] = field(default_factory=dict)

    @property
    def listed(self) -> bool:
        return bool(self.version)

    def holds(self, key: Key) -> bool:
        """Is the object of this key one of ours? From another thread: at that moment."""
        return any(known.key == key for known in list(self._known.values()))

    def may_fit(self) -> bool:
        """Has something given room back since the last list, and is there what found none?"""
        return self.room.freed != self._freed and any(isinstance(each, NoRoom) for each in self.problems.values())

    @property
    def _holder(self) -> str:
        return f"{self.resource.plural} {self.resource.field_selector}"

    def names(self) -> frozenset[ObjectName]:
        """Objects that the server has, valid or not, and those that were restored."""
        return frozenset(self._known)

    def judgements(self) -> list[ValidatedPolicy]:
        """Of resources that are `judged`. From another thread: at that moment; nothing while a list is being read."""
        return self.in_force() if self.listed else []

    def in_force(self) -> list[ValidatedPolicy]:
        """The same, while a list is due too: what counts until it is there."""
        return [each.judged for each in list(self._known.values()) if each.judged is not None]

    def to_keep(self) -> list[Mapping[str, Any]]:
        """The last valid generation of each object, for the next agent."""
        return [each.source for each in list(self._known.values()) if each.source]

    def listing(self, pages: Iterable[Page]) -> Step:
        """Read a complete list, and put it in force."""
        return self.take(self.read(pages))

    def read(self, pages: Iterable[Page]) -> Listing:
        """Pages are read one after the other, so that no more than one is held; the last version counts. Changes
        nothing yet, nor does an error of `pages`.
        """
        self._freed = self.room.freed
        known: dict[ObjectName, _Known] = {}
        problems: dict[ObjectName, InvalidObject] = {}
        upserts: list[Item] = []
        version = ""
        for objects, version in pages:  # noqa: B007  the last one
            for obj in objects:
                name = object_name(self.resource.typed(obj))
                old = self._known.get(name)
                known[name], problem, items = self._read(name, obj, old if old and old.uid == _uid(obj) else None)
                upserts += items
                problems |= {name: problem} if problem is not None else {}
        return Listing(known, problems, tuple(upserts), version)

    def take(self, listing: Listing) -> Step:
        """What the list lacks has gone. Versions count from this list on, be they lower than those before."""
        before, self._known, self.problems = self._known, dict(listing.known), dict(listing.problems)
        self.version, self.newest = listing.version, number_of(listing.version)
        kept = {each.key for each in self._known.values()}
        self.room.keep(self._holder, {name for name, each in self._known.items() if each.key is not None})
        gone = [each.key for each in before.values() if each.key is not None and each.key not in kept]
        return Step(listing.upserts, tuple(gone))

    def restore(self) -> Step:
        """What an earlier agent had in force of a kind that the server does not serve now."""
        upserts: list[Item] = []
        for uid, obj in self.remembered.items():
            name = object_name(obj)
            if name.kind != self.resource.kind or name in self._known or (item := self._restored(obj)) is None:
                continue
            self._known[name] = _Known(uid, 0, key_of(item), self._judged(name, obj, obj, item, ""), obj)
            self.room.take(self._holder, name, weight_of(item, obj), forced=True)
            upserts.append(item)
        return Step(tuple(upserts))

    def event(self, kind: str, obj: Mapping[str, Any]) -> Step:
        """One line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.

        Versions of one watch only grow: where one is lower, the server's history is another, and a list is due.
        """
        version = str(_metadata(obj).get("resourceVersion") or "")
        if kind == "ERROR" or number_of(version) < number_of(self.version):
            self.version = ""
            return Step(relist=True)
        self.version, self.newest = version, max(self.newest, number_of(version))
        if kind == "BOOKMARK":
            return Step()
        name = object_name(self.resource.typed(obj))
        known = self._known.get(name)
        if kind == "DELETED":
            return self._delete(name, known, obj)
        if known and known.uid == _uid(obj) and known.version >= number_of(version):
            return Step()
        replaced = known.key if known and known.uid != _uid(obj) else None
        self._known[name], problem, upserts = self._read(name, obj, known if not replaced else None)
        if problem is not None:
            self.problems[name] = problem
        else:
            self.problems.pop(name, None)
        fresh = {key_of(item) for item in upserts}
        return Step(tuple(upserts), (replaced,) if replaced is not None and replaced not in fresh else ())

    def _delete(self, name: ObjectName, known: _Known | None, obj: Mapping[str, Any]) -> Step:
        """Of an object that was made again meanwhile, the old one's deletion changes nothing."""
        if known is None or known.uid != _uid(obj):
            return Step()
        del self._known[name]
        self.problems.pop(name, None)
        self.room.leave(self._holder, name)
        return Step(deletes=(known.key,) if known.key is not None else ())

    def _read(
        self, name: ObjectName, obj: Mapping[str, Any], old: _Known | None
    ) -> tuple[_Known, InvalidObject | None, list[Item]]:
        """The object, if it is valid; else what was valid before stays, and the problem is reported."""
        version = number_of(_metadata(obj).get("resourceVersion"))
        typed = self.resource.typed(obj)
        source: Mapping[str, Any]
        try:
            item = self._parsed(name, typed)
            source = essence(typed) if self.resource.kept else {}
            judged = self._judged(name, obj, source, item, "")
            self.room.take(self._holder, name, weight_of(item, source, judged.status if judged else None))
        except InvalidObject as exc:
            if old is None and (restored := self._restored(obj)) is not None:
                source = self.remembered[_uid(obj)]
                self.room.take(self._holder, name, weight_of(restored, source), forced=True)
                judged = self._judged(name, obj, source, restored, str(exc))
                return _Known(_uid(obj), version, key_of(restored), judged, source), exc.to_keep(), [restored]
            if old is None or old.key is None:
                self.room.leave(self._holder, name)
            before = old.judged if old else None
            source = old.source if old else {}
            judged = self._judged(name, obj, source, before.item if before else None, str(exc))
            return _Known(_uid(obj), version, old.key if old else None, judged, source), exc.to_keep(), []
        return _Known(_uid(obj), version, key_of(item), judged, source), None, [item]

    def _parsed(self, name: ObjectName, obj: Mapping[str, Any]) -> Item:
        """Raises InvalidObject, whatever an object may hold: it must not cost the others."""
        return parsed(lambda: self.parse(obj), str(name), self.broken)

    def _restored(self, obj: Mapping[str, Any]) -> Item | None:
        """What an earlier agent had in force of this object, unless this one's validator refuses it."""
        remembered = self.remembered.get(_uid(obj))
        if remembered is None:
            return None
        try:
            return self._parsed(object_name(remembered), remembered)
        except InvalidObject:
            return None

    def _judged(
        self, name: ObjectName, obj: Mapping[str, Any], source: Mapping[str, Any], item: Item | None, problem: str
    ) -> ValidatedPolicy | None:
        """`source` and `item`: the last valid generation as an object and as a value."""
        if not self.resource.judged:
            return None
        status = obj.get("status")
        return ValidatedPolicy(
            PolicyRef(name.namespace, name.kind, name.name),
            generation=number_of(_metadata(obj).get("generation")),
            valid=number_of(_metadata(source).get("generation")),
            item=item if isinstance(item, (Policy, TaskIdentityBinding)) else None,
            problem=problem,
            status=status if isinstance(status, dict) else {},
            source=source,
            written=_written(_metadata(obj)),
        )


def _written(metadata: Mapping[str, Any]) -> Written:
    """Of those who wrote the content (a status is a subresource) the last."""
    managed = metadata.get("managedFields")
    entries = [each for each in managed if isinstance(each, dict)] if isinstance(managed, list) else []
    content = [each for each in entries if not each.get("subresource")]
    last = max(content, key=lambda each: str(each.get("time", "")), default={})
    manager, operation, moment = (str(last.get(key, "")) for key in ("manager", "operation", "time"))
    return Written(manager, operation, moment, str(metadata.get("resourceVersion") or ""))


def _metadata(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    found = obj.get("metadata")
    return found if isinstance(found, dict) else {}


def _uid(obj: Mapping[str, Any]) -> str:
    return str(_metadata(obj).get("uid") or "")


VERSION_DIGITS = 20
"""Of 64 bits (etcd's revision)."""


def number_of(version: object) -> int:
    """Resource versions are numbers in every server that keeps its state in etcd; KEP-5504 makes that official."""
    text = str(version or "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= VERSION_DIGITS else 0
