"""Whose an address is, of the pods that have it (I2)."""

from __future__ import annotations

from agent.model.cluster import Pod
from agent.model.identity import PodUid


def precedence(pod: Pod) -> tuple[bool, float, PodUid]:
    """Of pods with one address the greatest has it: one that stays before one that is on its way out, then the newer
    (I2)."""
    return not pod.terminating, pod.created, pod.uid


def is_peer(pod: Pod) -> bool:
    """A finished pod's address may be someone else's; a hostNetwork pod has the node's."""
    return not pod.finished and not pod.host_network
