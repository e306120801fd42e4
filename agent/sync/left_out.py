"""Pods that a snapshot is taken without, because what they need does not fit (P17)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from immutables import Map

from agent.compiler.kinds import KINDS
from agent.compiler.shares import Excess
from agent.errors import InvalidObject
from agent.model.changes import Changes
from agent.model.cluster import Cluster, Pod
from agent.model.identity import PodUid
from agent.model.policy import PolicyRef

STILL = 7, 8
"""A namespace that had no room for more kinds of pods is looked at again when it has so many of them left."""


@dataclass(slots=True)
class LeftOut:
    """One thread."""

    _pods: dict[PodUid, tuple[str, InvalidObject]] = field(default_factory=dict)  # namespace, and why
    _full: dict[str, int] = field(default_factory=dict)  # namespaces of too many kinds of pods, with how many pods

    def again(self, cluster: Cluster, changes: Changes) -> Changes:
        """Changes with the pods that may fit now: a policy has changed, or pods have gone. To find out that they do
        not costs a compiler from nothing, so a namespace of too many kinds has to have lost some pods."""
        if not self._pods or not (changes.everything_else or any(uid not in cluster.pods for uid in changes.pods)):
            return changes
        counts = _by_namespace(cluster) if self._full else Counter[str]()
        of, whole = STILL
        self._full = {
            name: had
            for name, had in self._full.items()
            if not changes.everything_else and counts[name] * whole > had * of
        }
        back = frozenset(uid for uid, (namespace, _) in self._pods.items() if namespace not in self._full)
        self._pods = {uid: each for uid, each in self._pods.items() if uid not in back and uid in cluster.pods}
        return changes | Changes(pods=back)

    def newcomers(self, before: Cluster | None, cluster: Cluster, changes: Changes) -> None:
        """Leaves out the new pods of namespaces of too many kinds."""
        known = before.pods if before is not None else Cluster().pods
        for uid in changes.pods if self._full else ():
            pod = cluster.pods.get(uid)
            if pod is not None and pod.namespace in self._full and uid not in known:
                problem = f"the pods of namespace {pod.namespace} are of too many kinds: no rule knows its addresses"
                self._put(pod, problem)

    def of_kinds(self, cluster: Cluster, over: Mapping[PolicyRef, Excess]) -> None:
        """By pod, with its uid as name."""
        for ref, each in over.items():
            problem = f"{each.sentence(KINDS)}; until there is room no rule knows its addresses"
            self._put(cluster.pods[PodUid(ref.name)], problem)
        counts = _by_namespace(cluster)
        self._full |= {ref.namespace: counts[ref.namespace] for ref in over}

    def of_rules(self, pods: Iterable[Pod]) -> None:
        for pod in pods:
            self._put(pod, "its rules do not fit into this node's maps: it stays pending")

    def without(self, cluster: Cluster) -> Cluster:
        if not self._pods:
            return cluster
        out = {uid: cluster.pods[uid] for uid in self._pods if uid in cluster.pods}
        pods = cluster.pods.mutate()
        for uid in out:
            del pods[uid]
        return replace(cluster, pods=pods.finish(), left_out=Map(out))

    def state(self) -> LeftOut:
        """As it is now, to come back to."""
        return LeftOut(dict(self._pods), dict(self._full))

    def errors(self) -> Iterator[InvalidObject]:
        return (error for _, (_, error) in sorted(self._pods.items()))

    def _put(self, pod: Pod, problem: str) -> None:
        self._pods[pod.uid] = pod.namespace, InvalidObject(f"Pod/{pod.namespace}/{pod.name}", "", problem)


def _by_namespace(cluster: Cluster) -> Counter[str]:
    """How many pods each has."""
    return Counter(pod.namespace for pod in cluster.pods.values())
