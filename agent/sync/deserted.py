"""Namespaces that go, or have gone, while pods of them are on this node (L2, L4).

Kubernetes deletes what is in a namespace before the namespace itself, and a process may outlive both. Until its
folder goes the namespace stays what it was last known to be, and its policies stay in force. A namespace that is made
again under the same name is another one: what is left of the first is then in `NAME (deleted)`, which no object can
be in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        again = frozenset(self._again(before, cluster))
        if again:
            before, cluster = _set_aside(before, cluster, again)
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

    def _again(self, before: Cluster, cluster: Cluster) -> Iterator[str]:
        """Namespaces that went, as far as anybody saw it, and are here under the same name."""
        if cluster.namespaces is self._listed:
            return
        for name, now in cluster.namespaces.items():
            was = before.namespaces.get(name)
            if was is None or now.terminating:
                continue
            if name in self._held or (was.uid and now.uid and was.uid != now.uid):
                yield name

    def _with_held(self, before: Map[Any, Any], now: Map[Any, Any]) -> Map[Any, Any]:
        if before is now:
            return now
        lost = {ref: policy for ref, policy in before.items() if ref.namespace in self._held and ref not in now}
        return now.update(lost) if lost else now


def _set_aside(before: Cluster, cluster: Cluster, names: frozenset[str]) -> tuple[Cluster, Cluster]:
    """Both with the deleted namespaces, their policies and what is left of their pods under other names."""
    aside = {name: f"{name} (deleted)" for name in names}
    left = {
        uid: replace(pod, namespace=aside[pod.namespace])
        for uid, pod in cluster.pods.items()
        if pod.namespace in aside and pod.finished and uid in before.pods
    }
    namespaces = {aside[name]: replace(before.namespaces[name], name=aside[name]) for name in names}
    return (
        replace(
            before,
            namespaces=before.namespaces.update(namespaces),
            policies=_moved(before.policies, aside),
            network_policies=_moved(before.network_policies, aside),
        ),
        replace(cluster, pods=cluster.pods.update(left)),
    )


def _moved(policies: Map[Any, Any], aside: Mapping[str, str]) -> Map[Any, Any]:
    moved = (
        replace(policy, ref=replace(ref, namespace=aside[ref.namespace]))
        for ref, policy in policies.items()
        if ref.namespace in aside
    )
    return policies.update({policy.ref: policy for policy in moved})


def _denying(namespaces: Map[str, Namespace]) -> Map[str, Namespace]:
    return Map({name: replace(each, default_posture=DefaultPosture.DENY) for name, each in namespaces.items()})
