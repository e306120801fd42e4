"""What policies will need of the compiler: upper bounds that cost little, from the snapshot alone (P17)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from typing_extensions import assert_never

from agent.compiler.names import nodes_needed
from agent.compiler.prefixes import prefix_of
from agent.compiler.terms import PORTS, is_wide
from agent.model.cluster import Cluster, Pod
from agent.model.network_policy import LivePodPeer, NetworkPolicy
from agent.model.policy import (
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    Peer,
    PodPeer,
    Policy,
    PolicyRef,
    PortMatch,
    ServicePeer,
    TaskPeer,
)
from agent.model.selector import LabelSelector
from agent.model.want import Prefix

MEMBERSHIPS = 2_000_000
"""Places of CIDRs in one another, as many as the compiler can do in a few seconds and some 100 MB."""
AnyPolicy = Policy | NetworkPolicy
AnyPeer = Peer | LivePodPeer
CHARACTERS, VALUES = 4, 32
"""So many characters of a pattern, or values of a condition, cost as much as one more of them."""


@dataclass(frozen=True, slots=True)
class Needs:
    """By policy. `prefixes`: CIDRs and exceptions. `memberships`: which of all prefixes lie in which of its CIDRs.
    `terms`: peers of its rules, with their ports. `conditions`: on peers, patterns of ids by their length; `matches`:
    each of them once for every kind of pod that it is held against. `subjects`, `selections`: the same of what says
    which pods of this node it selects. `names`: entries of map `names`."""

    prefixes: Mapping[PolicyRef, int]
    memberships: Mapping[PolicyRef, int]
    terms: Mapping[PolicyRef, int]
    conditions: Mapping[PolicyRef, int]
    matches: Mapping[PolicyRef, int]
    subjects: Mapping[PolicyRef, int]
    selections: Mapping[PolicyRef, int]
    names: Mapping[PolicyRef, int]


def needs_of(cluster: Cluster, policies: Mapping[PolicyRef, AnyPolicy]) -> Needs:
    peers = {ref: tuple(peers_of(policy)) for ref, policy in policies.items()}
    cidrs = {ref: [p for p in each if isinstance(p, CidrPeer)] for ref, each in peers.items()}
    ends = {ref: [prefix_of(n) for p in each for n in (p.network, *p.excluded)] for ref, each in cidrs.items()}
    firsts = sorted(first for first, _ in {end for each in ends.values() for end in each})
    of_pods = {ref: [peer for peer in map(_of_pods, each) if peer is not None] for ref, each in peers.items()}
    weights = {ref: [(_of_peer(peer), peer.namespace) for peer in each] for ref, each in of_pods.items()}
    pods = _kinds_of_pods(cluster, [peer for each in peers.values() for peer in each])
    subjects = {ref: _of_subject(policy) for ref, policy in policies.items()}
    here = _pods_here(cluster)
    return Needs(
        prefixes={ref: len(each) for ref, each in ends.items()},
        memberships={
            ref: sum(_inside(firsts, prefix_of(peer.network)) for peer in each) for ref, each in cidrs.items()
        },
        terms={ref: sum(_terms(*rule) for rule in _rules(policy)) for ref, policy in policies.items()},
        conditions={ref: sum(weight for weight, _ in each) for ref, each in weights.items()},
        matches={ref: sum(weight * pods.get(where, 0) for weight, where in each) for ref, each in weights.items()},
        subjects=subjects,
        selections={ref: weight * here[ref.namespace or None] for ref, weight in subjects.items()},
        names={ref: nodes_needed(p.pattern for p in each if isinstance(p, FqdnPeer)) for ref, each in peers.items()},
    )


def places(cidrs: Iterable[CidrPeer]) -> int:
    """How often a prefix of any of these lies in one of them."""
    every = list(cidrs)
    firsts = sorted({prefix_of(n) for peer in every for n in (peer.network, *peer.excluded)})
    starts = [first for first, _ in firsts]
    return sum(_inside(starts, prefix_of(peer.network)) for peer in every)


def peers_of(policy: AnyPolicy) -> Iterator[AnyPeer]:
    return (peer for peers, _ in _rules(policy) for peer in peers)


def _rules(policy: AnyPolicy) -> Iterator[tuple[tuple[AnyPeer, ...], tuple[PortMatch, ...]]]:
    rules = (rule for _, rule in policy.rules()) if isinstance(policy, Policy) else iter(policy.rules())
    return ((tuple(rule.peers or ()), rule.ports or ()) for rule in rules)


def _inside(firsts: list[int], prefix: Prefix) -> int:
    first, length = prefix
    return bisect_right(firsts, first + (1 << (128 - length)) - 1) - bisect_left(firsts, first)


def _terms(peers: tuple[AnyPeer, ...], ports: tuple[PortMatch, ...]) -> int:
    """Narrow CIDRs of a rule are one together."""
    named = sum(match.name is not None for match in ports)
    atoms = 1 + sum(not isinstance(peer, CidrPeer) or is_wide(peer) for peer in peers)
    return atoms * (1 + named + (len(ports) - named) // PORTS)


def _of_pods(peer: AnyPeer) -> PodPeer | LivePodPeer | TaskPeer | None:
    """The peer, if pods are held against it."""
    match peer:
        case PodPeer() | LivePodPeer() | TaskPeer():
            return peer
        case CidrPeer() | FqdnPeer() | ServicePeer() | EntityPeer():  # found by address
            return None
        case _:
            assert_never(peer)


def _of_peer(peer: PodPeer | LivePodPeer | TaskPeer) -> int:
    if isinstance(peer, TaskPeer):
        return max(_of_ids(*peer.dag_ids, *peer.task_ids), 1)
    return max(_of_selectors(peer.pod_selector, peer.namespace_selector), 1)


def _of_subject(policy: AnyPolicy) -> int:
    if isinstance(policy, NetworkPolicy):
        return 1 + _of_selectors(policy.pod_selector)
    subject = policy.subject
    ids = _of_ids(*subject.dag_ids, *subject.task_ids)
    return 1 + ids + _of_selectors(subject.pod_selector, subject.namespace_selector)


def _of_ids(*patterns: str) -> int:
    """A pattern costs by its stars; a claim that may be a hash costs by its characters."""
    return sum(1 + (p.count("*") + len(p) // CHARACTERS if "*" in p else 0) for p in patterns)


def _of_selectors(*selectors: LabelSelector | None) -> int:
    return sum(1 + len(r.values) // VALUES for each in selectors if each is not None for r in each.requirements)


def _pods_here(cluster: Cluster) -> Counter[str | None]:
    """How many pods of this node policies can tell apart, by namespace; None: in all."""
    node = cluster.settings.node
    here = (pod for pod in cluster.pods.values() if node in ("", pod.node))
    found = Counter[str | None](pod.namespace for pod in here)
    found[None] = found.total()
    return found


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
