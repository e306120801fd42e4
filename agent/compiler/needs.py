"""What policies will need of the compiler: upper bounds that cost little, from the snapshot alone (P17)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from typing_extensions import assert_never

from agent.compiler.prefixes import prefix_of
from agent.model.cluster import Cluster, Pod
from agent.model.network_policy import LivePodPeer, NetworkPolicy
from agent.model.policy import CidrPeer, EntityPeer, Peer, PodPeer, Policy, PolicyRef, ServicePeer, TaskPeer
from agent.model.want import Prefix

AnyPolicy = Policy | NetworkPolicy
AnyPeer = Peer | LivePodPeer


@dataclass(frozen=True, slots=True)
class Needs:
    """By policy. `prefixes`: CIDRs and exceptions. `memberships`: which of all prefixes lie in which of its CIDRs.
    `matches`: conditions on peers, each once for every kind of pod that it is held against."""

    prefixes: Mapping[PolicyRef, int]
    memberships: Mapping[PolicyRef, int]
    matches: Mapping[PolicyRef, int]


def needs_of(cluster: Cluster, policies: Mapping[PolicyRef, AnyPolicy]) -> Needs:
    peers = {ref: tuple(peers_of(policy)) for ref, policy in policies.items()}
    cidrs = {ref: [p for p in each if isinstance(p, CidrPeer)] for ref, each in peers.items()}
    ends = {ref: [prefix_of(n) for p in each for n in (p.network, *p.excluded)] for ref, each in cidrs.items()}
    firsts = sorted(first for first, _ in {end for each in ends.values() for end in each})
    pods = _kinds_of_pods(cluster, [peer for each in peers.values() for peer in each])
    return Needs(
        prefixes={ref: len(each) for ref, each in ends.items()},
        memberships={
            ref: sum(_inside(firsts, prefix_of(peer.network)) for peer in each) for ref, each in cidrs.items()
        },
        matches={ref: sum(_matches(peer, pods) for peer in each) for ref, each in peers.items()},
    )


def peers_of(policy: AnyPolicy) -> Iterator[AnyPeer]:
    if isinstance(policy, Policy):
        yield from (peer for _, _, peer in policy.peers())
    else:
        yield from policy.peers()


def _inside(firsts: list[int], prefix: Prefix) -> int:
    first, length = prefix
    return bisect_right(firsts, first + (1 << (128 - length)) - 1) - bisect_left(firsts, first)


def _matches(peer: AnyPeer, pods: Mapping[str | None, int]) -> int:
    match peer:
        case PodPeer() | LivePodPeer():
            conditions = len(peer.pod_selector.requirements)
            conditions += len(peer.namespace_selector.requirements) if peer.namespace_selector is not None else 0
        case TaskPeer():
            conditions = len(peer.dag_ids) + len(peer.task_ids)
        case CidrPeer() | ServicePeer() | EntityPeer():  # found by address
            return 0
        case _:
            assert_never(peer)
    return max(conditions, 1) * pods.get(peer.namespace, 0)


def _kinds_of_pods(cluster: Cluster, peers: Iterable[AnyPeer]) -> Mapping[str | None, int]:
    """How many pods any of these peers can tell apart, by namespace; None: in all of them."""
    keys: set[str] = set()
    tasks = some = False
    for peer in peers:
        if isinstance(peer, PodPeer | LivePodPeer):
            keys.update(r.key for r in peer.pod_selector.requirements)
            some = True
        tasks |= isinstance(peer, TaskPeer)
    if not (tasks or some):
        return {}
    kinds = {_kind(pod, keys, tasks=tasks) for pod in cluster.pods.values()}
    found = Counter[str | None](namespace for namespace, _, _ in kinds)
    found[None] = len(kinds)
    return found


def _kind(pod: Pod, keys: set[str], *, tasks: bool) -> tuple[str, object, object]:
    identity = pod.claim.identity
    ids = (identity.dag_id, identity.task_id) if tasks else ()
    return pod.namespace, ids, tuple(pair for pair in pod.labels if pair[0] in keys)
