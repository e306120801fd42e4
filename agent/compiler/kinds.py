"""Rows that addresses cost the rulesets of everybody, because somebody's objects tell them apart (P17).

Every ruleset that asks about an address has rows for its class. Who makes pods, services or CIDRs of ever other kinds
makes classes, and so fills map `rules` with the rows of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set

from agent.compiler.needs import AnyPolicy, peers_of
from agent.compiler.prefixes import host_of, prefix_of
from agent.model.cluster import Address, Cluster
from agent.model.policy import CidrPeer, PolicyRef
from agent.model.want import Classes, PeerClass, Want

KINDS = "rows of map rules for the kinds of its addresses"


def rows_by_holder(want: Want, cluster: Cluster, first: Set[PolicyRef]) -> dict[PolicyRef, int]:
    """By pod (its uid is the name), service, slice and policy: rows for classes that nobody of its namespace has
    who comes before it; those in `first` come before all. The greatest class of a namespace is free."""
    rows = Counter(key.peer_class for key in want.rules)
    seen: dict[str, set[PeerClass]] = {}
    greatest: dict[str, tuple[int, PolicyRef]] = {}
    found: dict[PolicyRef, int] = {}
    for ref, classes in sorted(_holders(want, cluster), key=lambda each: (each[0] not in first, each[0])):
        known = seen.setdefault(ref.namespace, set())
        new = {each.peer for each in classes if each.peer != each.base} - known
        known |= new
        weights = [rows[each] for each in new]
        found[ref] = sum(weights)
        greatest[ref.namespace] = max(greatest.get(ref.namespace, (0, ref)), (max(weights, default=0), ref))
    for free, ref in greatest.values():
        found[ref] -= free
    return found


def holders_in_force(before: Cluster | None, now: Cluster) -> frozenset[PolicyRef]:
    """Those that are as they were; at a start, when nothing is known of before, the pods of this node."""
    if before is None:
        here = (pod for pod in now.pods.values() if now.settings.node in ("", pod.node))
        return frozenset(PolicyRef(pod.namespace, "Pod", pod.uid) for pod in here)
    pods = (PolicyRef(pod.namespace, "Pod", uid) for uid, pod in now.pods.items() if before.pods.get(uid) == pod)
    services = (
        PolicyRef(a, "Service", b) for (a, b), new in now.services.items() if before.services.get((a, b)) == new
    )
    slices = (
        PolicyRef(a, "EndpointSlice", b) for (a, b), new in now.slices.items() if before.slices.get((a, b)) == new
    )
    policies = (ref for ref, new in now.policies.items() if before.policies.get(ref) == new)
    native = (ref for ref, new in now.network_policies.items() if before.network_policies.get(ref) == new)
    return frozenset((*pods, *services, *slices, *policies, *native))


def _holders(want: Want, cluster: Cluster) -> Iterator[tuple[PolicyRef, list[Classes]]]:
    """Who brings which addresses, with their classes."""

    def of_hosts(addresses: Iterable[Address]) -> list[Classes]:
        return [want.hosts[host] for host in map(host_of, addresses) if host in want.hosts]

    for uid, pod in cluster.pods.items():
        yield PolicyRef(pod.namespace, "Pod", uid), of_hosts(pod.addresses)
    for (namespace, name), service in cluster.services.items():
        yield PolicyRef(namespace, "Service", name), of_hosts((*service.addresses, *service.external))
    for (namespace, name), piece in cluster.slices.items():
        yield PolicyRef(namespace, "EndpointSlice", name), of_hosts(piece.addresses)
    policies: Mapping[PolicyRef, AnyPolicy] = {**cluster.policies, **cluster.network_policies}
    for ref, policy in policies.items():
        cidrs = (peer for peer in peers_of(policy) if isinstance(peer, CidrPeer))
        prefixes = {prefix_of(network) for peer in cidrs for network in (peer.network, *peer.excluded)}
        yield ref, [want.peers[prefix] for prefix in prefixes if prefix in want.peers]
