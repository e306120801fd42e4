"""Patterns over ids of which some are known as a hash only: where they only might match, they allow nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.cluster import Cluster
from agent.model.identity import Kind
from agent.model.policy import Policy, PolicyRef, Posture, Rule, TaskPeer
from agent.parse.bindings import BINDING_KIND

HashedIds = tuple[PolicyRef, str, str]
"""Whose, the field, a sentence."""

_BY_LABEL = {Kind.KUBERNETES_POD_OPERATOR, Kind.SPARK_OPERATOR}
_WHICH = (
    "KubernetesPodOperator pods whose id is known as a hash only (over 63 characters, or other than ASCII letters, "
    "digits, '_', '-', '.')"
)


def hashed_ids(cluster: Cluster) -> Iterator[HashedIds]:
    """I1"""
    for ref, policy in sorted(cluster.policies.items()):
        yield from _of_subject(ref, policy)
        for place, rule, peer in policy.peers():
            if isinstance(peer, TaskPeer) and not _denies(policy, rule):
                for name, pattern in _unseen(peer.dag_ids, peer.task_ids):
                    text = f"{pattern!r} means no {_WHICH}; name their ids without `*`"
                    yield ref, f"spec.{place}.tasks.{name}", text
    for name, binding in sorted(cluster.bindings.items()):
        for field, pattern in _unseen(binding.dag_ids, binding.task_ids):
            then = "are quarantined" if binding.posture is Posture.ENFORCE else "contradict it"
            text = f"{pattern!r} vouches for no {_WHICH}: they {then}; name their ids without `*`"
            yield PolicyRef("", BINDING_KIND, name), f"spec.{field}", text


def _of_subject(ref: PolicyRef, policy: Policy) -> Iterator[HashedIds]:
    subject = policy.subject
    if not (policy.egress or policy.ingress) or (subject.kinds and not _BY_LABEL & set(subject.kinds)):
        return
    for name, pattern in _unseen(subject.dag_ids, subject.task_ids):
        text = f"{pattern!r} allows nothing to {_WHICH}: they are restricted if it might match"
        yield ref, f"spec.subject.{name}", f"{text}; name their ids without `*`"


def _denies(policy: Policy, rule: Rule) -> bool:
    """A deny rule holds for whom it might mean."""
    return any(rule is each for each in policy.deny)


def _unseen(dag_ids: tuple[str, ...], task_ids: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The first pattern of each field that a hash cannot be held against; `*` alone means every id."""
    for name, patterns in (("dagIds", dag_ids), ("taskIds", task_ids)):
        found = next((each for each in patterns if "*" in each and each.strip("*")), None)
        if found is not None:
            yield name, found
