"""Named ports of pods: every number that a pod calls by a name that some policy asks for is a port class of its own,
for which every wide rule of anybody needs a row (P17).

Who breaks a quota has its named ports left out: the pod stays an endpoint and a peer, but no rule that gives a port
by its name reaches it. Whoever writes a pod chooses these names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from agent.compiler.needs import names_of_ports
from agent.compiler.shares import OF_OBJECT, Excess, distinct, excess
from agent.errors import InvalidObject
from agent.model.changes import Changes
from agent.model.cluster import Cluster, Pod
from agent.model.identity import PodUid
from agent.model.policy import PolicyRef

NAMED_PORTS = 1_000
"""Numbers of ports that pods have for the names that policies ask for, all together."""
Port = tuple[int, int]
"""Protocol and number."""


@dataclass(slots=True)
class PortShares:
    """One thread."""

    refused: dict[PodUid, InvalidObject] = field(default_factory=dict)
    _asked: frozenset[tuple[int, str]] = frozenset()  # protocols and names that policies ask for
    _sizes: dict[PodUid, tuple[PolicyRef, frozenset[Port]]] = field(default_factory=dict)
    _users: Counter[Port] = field(default_factory=Counter)
    _taken: dict[PodUid, frozenset[Port]] = field(default_factory=dict)
    _touched: set[PodUid] = field(default_factory=set)  # refused, or no more, since a snapshot was taken

    def admit(self, cluster: Cluster, changes: Changes) -> Changes:
        """Judges the pods of this snapshot. `changes` with those that are refused now, or no more."""
        uids: Iterable[PodUid] = changes.pods
        if changes.everything_else:
            self._asked = names_of_ports((*cluster.policies.values(), *cluster.network_policies.values()))
            uids = {*self._sizes, *(cluster.pods if self._asked else ())}
        for uid in uids:
            self._measure(uid, cluster.pods.get(uid))
        was = self.refused
        self.refused = self._judged(cluster) if len(self._users) > NAMED_PORTS // OF_OBJECT else {}
        self._touched |= was.keys() | self.refused.keys()
        return changes | Changes(pods=frozenset(self._touched)) if self._touched else changes

    def substituted(self, cluster: Cluster) -> Cluster:
        """The snapshot in which these pods name no ports."""
        if not self.refused:
            return cluster
        pods = cluster.pods.mutate()
        for uid in self.refused:
            if (pod := pods.get(uid)) is not None:
                pods[uid] = replace(pod, ports=())
        return replace(cluster, pods=pods.finish())

    def took(self) -> None:
        self._taken = {uid: ports for uid, (_, ports) in self._sizes.items() if uid not in self.refused}
        self._touched.clear()

    def errors(self) -> tuple[InvalidObject, ...]:
        return tuple(sorted(self.refused.values(), key=str))

    def _measure(self, uid: PodUid, pod: Pod | None) -> None:
        _, before = self._sizes.pop(uid, (None, ()))
        self._users.subtract(before)
        for port in before:
            if not self._users[port]:
                del self._users[port]
        ports = (
            (p for p in pod.ports if (p.protocol, p.name) in self._asked) if pod is not None and self._asked else ()
        )
        now = frozenset((port.protocol, port.port) for port in ports)
        if pod is not None and now:
            self._sizes[uid] = (PolicyRef(pod.namespace, "Pod", uid), now)
            self._users.update(now)

    def _judged(self, cluster: Cluster) -> dict[PodUid, InvalidObject]:
        needs = distinct(dict(self._sizes.values()))
        in_force = {ref for uid, (ref, ports) in self._sizes.items() if self._taken.get(uid) == ports}
        found = excess(needs, NAMED_PORTS, in_force)
        refused = ((uid, found[ref]) for uid, (ref, _) in self._sizes.items() if ref in found)
        return {uid: _error(cluster.pod_name(uid), over) for uid, over in refused}


def _error(pod: str, over: Excess) -> InvalidObject:
    what = over.sentence("numbers of its own for ports that policies name")
    return InvalidObject(f"Pod/{pod}", "spec", f"{what}; no rule reaches it at a port by its name")
