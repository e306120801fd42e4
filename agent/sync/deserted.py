"""Namespaces that go, or have gone, while pods of them are on this node (L2, L4).

Kubernetes deletes what is in a namespace before the namespace itself, and a process may outlive both. Until its
folder goes the namespace stays what it was last known to be, and its policies stay in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from immutables import Map

from agent.model.cluster import Cluster, Namespace
from agent.model.policy import DefaultPosture

_NONE: Map[str, Namespace] = Map()


@dataclass(slots=True)
class Deserted:
    """Kept by whoever takes snapshots. One thread."""

    _listed: Mapping[str, Namespace] = field(default_factory=lambda: _NONE)  # as the source had them last
    _terminating: frozenset[str] = frozenset()
    _held: frozenset[str] = frozenset()
    _early: Map[str, Namespace] = _NONE  # of snapshots that were not complete

    def remember(self, cluster: Cluster) -> None:
        """A snapshot that is not complete: its namespaces may be those that an agent before knew."""
        self._early = self._early.update(cluster.namespaces)

    def held(self, before: Cluster, cluster: Cluster) -> Cluster:
        """`cluster` with what `before` knew of namespaces that are going while pods of them are here.

        Where no complete snapshot came before, nobody knows their policies: what no rule allows is denied then.
        """
        known = before.namespaces if before.complete else _denying(self._early)
        if cluster.namespaces is not self._listed or not before.complete:
            self._listed = cluster.namespaces
            self._terminating = frozenset(name for name, each in cluster.namespaces.items() if each.terminating)
        elif not self._held and not self._terminating:
            return cluster
        going = (frozenset(known) - frozenset(cluster.namespaces)) | self._terminating
        self._held = frozenset(going & {pod.namespace for pod in cluster.pods.values()}) if going else frozenset()
        if not self._held:
            return cluster
        gone = {name: known[name] for name in self._held if name not in cluster.namespaces}
        return replace(
            cluster,
            namespaces=cluster.namespaces.update(gone),
            policies=self._with_held(before.policies, cluster.policies),
            network_policies=self._with_held(before.network_policies, cluster.network_policies),
        )

    def _with_held(self, before: Map[Any, Any], now: Map[Any, Any]) -> Map[Any, Any]:
        if before is now:
            return now
        lost = {ref: policy for ref, policy in before.items() if ref.namespace in self._held and ref not in now}
        return now.update(lost) if lost else now


def _denying(namespaces: Map[str, Namespace]) -> Map[str, Namespace]:
    return Map({name: replace(each, default_posture=DefaultPosture.DENY) for name, each in namespaces.items()})
