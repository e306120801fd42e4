"""What changed between two snapshots, in the grain that the compiler can use."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from agent.model.cluster import Cluster, Name
from agent.model.identity import PodUid

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of what was added, changed or removed. Naming too much costs time, naming too little is a defect.

    `everything_else`: policies of any kind, bindings, namespaces, nodes or settings changed; that costs the work of
    the whole cluster.
    """

    pods: frozenset[PodUid] = frozenset()
    services: frozenset[Name] = frozenset()
    slices: frozenset[Name] = frozenset()
    everything_else: bool = False

    def __or__(self, other: Changes) -> Changes:
        return Changes(
            self.pods | other.pods,
            self.services | other.services,
            self.slices | other.slices,
            self.everything_else or other.everything_else,
        )


_FINE = {each.name for each in fields(Changes)}
_REST = [
    each.name
    for each in fields(Cluster)
    if each.name not in _FINE | {"revision", "complete", "service_accounts", "left_out"}
]
"""No rule asks for service accounts."""

EVERYTHING = Changes(everything_else=True)


def between(old: Cluster, new: Cluster) -> Changes:
    """Compares two snapshots. Takes time in proportion to the cluster: for those who did not keep count."""
    return Changes(
        pods=_differing(old.pods, new.pods) | _differing(old.left_out, new.left_out),
        services=_differing(old.services, new.services),
        slices=_differing(old.slices, new.slices),
        everything_else=any(getattr(old, name) != getattr(new, name) for name in _REST),
    )


def _differing(old: Mapping[K, V], new: Mapping[K, V]) -> frozenset[K]:
    if old is new:
        return frozenset()
    changed = {key for key, value in new.items() if old.get(key) != value}
    return frozenset(changed | {key for key in old if key not in new})
