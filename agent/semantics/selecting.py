"""Which pods a subject or a peer selects. Read by the compiler and by the reference judge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from agent.model.airflow_labels import may_be_hashed, might_stand_for, safe_label_value
from agent.model.cluster import Namespace, Pod
from agent.model.identity import Identity
from agent.model.network_policy import LivePodPeer
from agent.model.policy import PodPeer, Policy, TaskPeer
from agent.model.selector import id_matches


@lru_cache(maxsize=4096)
def _as_label(text: str) -> str:
    return safe_label_value(text)


@lru_cache(maxsize=1 << 15)
def _perhaps(pattern: str, label: str) -> bool:
    return might_stand_for(label, pattern)


def id_claimed(pattern: str, value: str, *, ambiguous: bool, perhaps: bool = False) -> bool:
    """Does an id that a policy names match a claimed one (P16)? No claim matches nothing, not even `*`.

    Where the claim comes from a label, an exact id is taken through Airflow's function, a pattern is not (I1). Where
    the label may be a hash, a pattern matches it only if `perhaps` is enough, as it is where a policy restricts.
    """
    if not value:
        return False
    if not ambiguous:
        return id_matches(pattern, value)
    if "*" not in pattern:
        return value in (pattern, _as_label(pattern))
    if not may_be_hashed(value):
        return id_matches(pattern, value)
    return not pattern.strip("*") or (perhaps and (id_matches(pattern, value) or _perhaps(pattern, value)))


def claims(dag_ids: tuple[str, ...], task_ids: tuple[str, ...], identity: Identity, *, perhaps: bool = False) -> bool:
    """Empty tuples match every id, and pods that claim none."""
    return all(
        not patterns or any(id_claimed(p, value, ambiguous=identity.ambiguous, perhaps=perhaps) for p in patterns)
        for patterns, value in ((dag_ids, identity.dag_id), (task_ids, identity.task_id))
    )


def selects(
    policy: Policy, pod: Pod, labels: Mapping[str, str], namespace: Namespace, *, perhaps: bool = True
) -> bool:
    """Does the policy speak about this pod (I3)? `labels` are those of the claim (I2).

    Its allow rules count only for pods that it selects without `perhaps` (I1).
    """
    subject, identity = policy.subject, pod.claim.identity
    if policy.ref.namespace not in ("", pod.namespace):
        return False
    if subject.service_accounts and identity.service_account not in subject.service_accounts:
        return False
    if subject.kinds and identity.kind not in subject.kinds:
        return False
    if subject.namespace_selector and not subject.namespace_selector.matches(dict(namespace.labels)):
        return False
    if subject.pod_selector and not subject.pod_selector.matches(labels):
        return False
    return claims(subject.dag_ids, subject.task_ids, identity, perhaps=perhaps)


def pods_include(
    peer: PodPeer | LivePodPeer, pod: Pod, labels: Mapping[str, str], of_namespace: Mapping[str, str] | None
) -> bool:
    """Is the pod one of the peer's? By live labels, and those of its namespace; one that is not known (None) matches
    no selector (I2)."""
    if peer.namespace is not None and peer.namespace != pod.namespace:
        return False
    selector = peer.namespace_selector
    if selector is not None and (of_namespace is None or not selector.matches(of_namespace)):
        return False
    return peer.pod_selector.matches(labels)


def tasks_include(peer: TaskPeer, pod: Pod, namespace: Namespace | None, *, perhaps: bool) -> bool:
    """Is the pod a task of the peer's? Without a namespace: of every managed one. `perhaps`: for a deny rule (I1)."""
    identity = pod.claim.identity
    if peer.namespace is None:
        if namespace is None or not namespace.managed:
            return False
    elif peer.namespace != pod.namespace:
        return False
    return bool(identity.dag_id) and claims(peer.dag_ids, peer.task_ids, identity, perhaps=perhaps)
