"""The cluster as far as the sources have brought it: objects in, snapshots and what changed out. Pure, one thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from agent.model.changes import Changes
from agent.model.cluster import (
    Cluster,
    Pod,
    Settings,
)
from agent.model.identity import Claim, PodUid
from agent.parse.claims import keep_first
from agent.parse.object_kinds import BY_VALUE, OBJECT_KINDS, Item

FRESH_SECONDS = 10.0
"""After a pod is made its claim is taken as that of its making; later it is `late` (I2)."""
KEPT_CLAIMS = 20_000
"""Claims of pods that have gone, kept so that a pod that comes back is no new first sight (I2, L4)."""
KEPT_LABELS = 200_000
"""Labels of these claims, together: who makes pods with very many has fewer of them kept."""


class Key(NamedTuple):
    """Where an object is in a snapshot: the name of Cluster's map, and the key in it."""

    table: str
    id: Any


TABLES = frozenset(kind.table for kind in OBJECT_KINDS)
"""What manifests can fill: all of it."""


def key_of(item: Item) -> Key:
    """Where this object is in a snapshot."""
    kind = BY_VALUE[type(item)]
    return Key(kind.table, kind.key(item))


@dataclass(slots=True)
class Store:
    """Holds the newest snapshot. `claims` starts with what the state folder remembers; the first one wins (I2).

    The revision grows with each step that changes anything, and only then.
    """

    snapshot: Cluster = field(default_factory=Cluster)
    claims: dict[PodUid, Claim] = field(default_factory=dict)
    clock: Callable[[], float] | None = None
    """Seconds since the epoch; None where what is read is trusted whenever it is read, as files are."""
    _gone: OrderedDict[PodUid, int] = field(default_factory=OrderedDict)  # how many labels claims of gone pods have
    _gone_labels: int = 0

    def __post_init__(self) -> None:
        for uid in self.claims:
            self._note(uid)

    def apply(
        self, upserts: Iterable[Item] = (), deletes: Iterable[Key] = (), *, complete: bool | None = None
    ) -> Changes:
        """One step: deletes, then upserts. A key in both is an upsert; what is equal already is no change."""
        before = self.snapshot
        step = _Step(before)
        for key in deletes:
            step.delete(key)
        for item in upserts:
            step.put(key_of(item), self._frozen(item))
        changed, whole = step.changed(), before.complete if complete is None else complete
        if changed or whole != before.complete:
            self.snapshot = replace(before, **step.maps(), revision=before.revision + 1, complete=whole)
            for uid in changed.get("pods", ()):
                self._note(uid)
            self._forget_oldest()
        if accounts := changed.get("service_accounts"):
            changed["pods"] = changed.get("pods", frozenset()) | self._pods_of(accounts)
        fine = {table: ids for table, ids in changed.items() if table in _FINE}
        rest = changed.keys() - _FINE - {"service_accounts"}
        return Changes(**fine, everything_else=bool(rest) or whole != before.complete)

    def configure(self, settings: Settings) -> Changes:
        """New settings are a new revision."""
        if settings == self.snapshot.settings:
            return Changes()
        self.snapshot = replace(self.snapshot, settings=settings, revision=self.snapshot.revision + 1)
        return Changes(everything_else=True)

    def replace_all(
        self, items: Mapping[Key, Item], *, tables: frozenset[str], complete: bool | None = None
    ) -> Changes:
        """A complete list of these tables: everything that is not in it goes."""
        gone = [
            Key(table, id_) for table in tables for id_ in getattr(self.snapshot, table) if (table, id_) not in items
        ]
        return self.apply(items.values(), gone, complete=complete)

    def _pods_of(self, accounts: Collection[Hashable]) -> frozenset[PodUid]:
        """Pods of this node that reports name by what these service accounts say."""
        pods, node = self.snapshot.pods, self.snapshot.settings.node
        return frozenset(
            uid
            for uid, pod in pods.items()
            if node in ("", pod.node) and (pod.namespace, pod.claim.identity.service_account) in accounts
        )

    def _frozen(self, item: Item) -> Item:
        if not isinstance(item, Pod):
            return item
        first = self.claims.get(item.uid)
        claim = self._first_sight(item) if first is None else keep_first(first, item.claim)
        self.claims[item.uid] = claim
        return item if claim is item.claim else replace(item, claim=claim)

    def _first_sight(self, pod: Pod) -> Claim:
        """Who may patch a pod can have done so since it was made; the time of its making is the API server's."""
        late = self.clock is not None and self.clock() - pod.created > FRESH_SECONDS
        return replace(pod.claim, late=True) if late else pod.claim

    def _note(self, uid: PodUid) -> None:
        """Of this pod a claim is known; is the pod there?"""
        self._gone_labels -= self._gone.pop(uid, 0)
        if uid not in self.snapshot.pods and uid in self.claims:
            self._gone[uid] = len(self.claims[uid].labels)
            self._gone_labels += self._gone[uid]

    def _forget_oldest(self) -> None:
        while len(self._gone) > KEPT_CLAIMS or self._gone_labels > KEPT_LABELS:
            uid, labels = self._gone.popitem(last=False)
            self._gone_labels -= labels
            del self.claims[uid]


_ABSENT: Any = object()
_FINE = {each.name for each in fields(Changes)} & TABLES  # whose keys Changes names; service accounts are in no rule


@dataclass(slots=True)
class _Step:
    """Mutations of the maps that one step touches, and the keys that really changed."""

    before: Cluster
    mutations: dict[str, Any] = field(default_factory=dict)
    touched: dict[str, set[Any]] = field(default_factory=dict)

    def put(self, key: Key, value: Item | None) -> None:
        mutation = self._mutation(key.table)
        if mutation.get(key.id, _ABSENT) != value:
            mutation[key.id] = value
            self.touched.setdefault(key.table, set()).add(key.id)

    def delete(self, key: Key) -> None:
        mutation = self._mutation(key.table)
        if mutation.pop(key.id, _ABSENT) is not _ABSENT:
            self.touched.setdefault(key.table, set()).add(key.id)

    def maps(self) -> dict[str, Any]:
        return {table: mutation.finish() for table, mutation in self.mutations.items()}

    def changed(self) -> dict[str, frozenset[Any]]:
        """Keys by table; one that was deleted and put back as it was has not changed."""
        real: dict[str, frozenset[Any]] = {}
        for table, ids in self.touched.items():
            old, new = getattr(self.before, table), self.mutations[table]
            differing = frozenset(i for i in ids if old.get(i, _ABSENT) != new.get(i, _ABSENT))
            real |= {table: differing} if differing else {}
        return real

    def _mutation(self, table: str) -> Any:
        if table not in self.mutations:
            self.mutations[table] = getattr(self.before, table).mutate()
        return self.mutations[table]
