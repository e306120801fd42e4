"""What a pod is to the peers of all policies: its atoms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from typing_extensions import assert_never

from agent.compiler.atoms import CLUSTER, AtomId, AtomTable, Members, PerhapsTasks, PortAtom
from agent.memo import Memo
from agent.model.cluster import Namespace, Pod
from agent.model.identity import Claim
from agent.model.network_policy import LivePodPeer
from agent.model.policy import PodPeer, TaskPeer
from agent.semantics.selecting import pods_include, tasks_include

Labels = tuple[tuple[str, str], ...]
PodsPeer = PodPeer | TaskPeer | LivePodPeer | PerhapsTasks
Key = tuple[str, Labels, str, str, bool, bool]


@dataclass(slots=True)
class PeerPods:
    """Peers that select pods, by the namespace that they select from (None: any).

    Pods that no selector can tell apart share one answer: only labels that some peer asks about are compared.
    """

    table: AtomTable
    namespaces: Mapping[str, Namespace]
    trusts: Callable[[Claim], bool]  # in an allow rule (I2)
    by_namespace: dict[str | None, list[tuple[AtomId, PodsPeer]]] = field(default_factory=dict)
    label_keys: set[str] = field(default_factory=set)
    port_names: set[tuple[int, str]] = field(default_factory=set)
    asks_for_tasks: bool = False
    _answers: Memo[Key, Members] = field(default_factory=Memo)

    def ask(self, peers: Iterable[PodsPeer]) -> None:
        """Adds peers to answer for, each once; before the first question."""
        for peer in peers:
            self.by_namespace.setdefault(peer.namespace, []).append((self.table.number(peer), peer))
            if isinstance(peer, PodPeer | LivePodPeer):
                self.label_keys.update(r.key for r in peer.pod_selector.requirements)
            else:
                self.asks_for_tasks = True

    def atoms(self, pod: Pod) -> Members:
        """Everything that holds for the pod's addresses because of the pod."""
        found = self._selected(pod)
        ports = [p for p in pod.ports if (p.protocol, p.name) in self.port_names] if self.port_names else []
        if not ports:
            return found
        return found.union(self.table.number(PortAtom(p.protocol, p.name, p.port)) for p in ports)

    def _selected(self, pod: Pod) -> Members:
        identity = pod.claim.identity
        labels = tuple(pair for pair in pod.labels if pair[0] in self.label_keys)
        dag, task = (identity.dag_id, identity.task_id) if self.asks_for_tasks else ("", "")
        trusted = self.asks_for_tasks and self.trusts(pod.claim)
        key = (pod.namespace, labels, dag, task, identity.ambiguous, trusted)
        return self._answers.get(key, lambda: self._evaluated(pod, trusted=trusted))

    def _evaluated(self, pod: Pod, *, trusted: bool) -> Members:
        namespace, labels = self.namespaces.get(pod.namespace), dict(pod.labels)
        of_namespace = dict(namespace.labels) if namespace is not None else None
        found = {CLUSTER}
        for where in (pod.namespace, None):
            for number, peer in self.by_namespace.get(where, ()):
                match peer:
                    case PodPeer() | LivePodPeer():
                        meant = pods_include(peer, pod, labels, of_namespace)
                    case PerhapsTasks():
                        meant = tasks_include(peer.peer, pod, namespace, perhaps=True)
                    case TaskPeer():
                        meant = trusted and tasks_include(peer, pod, namespace, perhaps=False)
                    case _:
                        assert_never(peer)
                if meant:
                    found.add(number)
        return frozenset(found)
