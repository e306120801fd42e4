"""What a kind of peer needs to be known, for readers that only ask this."""

from __future__ import annotations

from typing_extensions import assert_never

from agent.model.network_policy import LivePodPeer
from agent.model.policy import CidrPeer, Entity, EntityPeer, FqdnPeer, Peer, PodPeer, ServicePeer, TaskPeer


def reads_pods(peer: Peer | LivePodPeer) -> bool:
    """Does it take the pods of other nodes to know who is meant (S2)?"""
    match peer:
        case PodPeer() | TaskPeer() | LivePodPeer():
            return True
        case CidrPeer() | FqdnPeer() | ServicePeer() | EntityPeer():
            return False
        case _:
            assert_never(peer)


def may_mean_a_pod(peer: Peer) -> bool:
    """May it mean a pod of which only the address is known? A deny rule takes it for that (P17)."""
    match peer:
        case PodPeer() | TaskPeer():
            return True
        case EntityPeer():
            return peer.entity is Entity.CLUSTER
        case CidrPeer() | FqdnPeer() | ServicePeer():
            return False
        case _:
            assert_never(peer)


def namespace_named(peer: Peer) -> str | None:
    """The one namespace that it names or stands in; None where it has none or means several."""
    match peer:
        case PodPeer() | TaskPeer() | ServicePeer():
            return peer.namespace
        case CidrPeer() | FqdnPeer() | EntityPeer():
            return None
        case _:
            assert_never(peer)
