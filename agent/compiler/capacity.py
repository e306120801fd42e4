"""Does Want fit into the kernel's maps? A revision that does not is refused whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.errors import CapacityError, TooManyRows
from agent.model.cluster import Cluster
from agent.model.policy import CidrPeer, Policy
from agent.model.want import Want


@dataclass(frozen=True, slots=True)
class Limits:
    """Entries that the maps hold."""

    peers: int
    hosts: int
    rules: int
    assignments: int


def check_capacity(want: Want, limits: Limits, cluster: Cluster) -> None:
    """Raises CapacityError: which map, how many entries are needed, the limit, and who needs the most."""
    needs: list[tuple[str, int, int, Callable[[], str]]] = [
        ("peers", len(want.peers), limits.peers, lambda: _most_cidrs(cluster)),
        ("hosts", len(want.hosts), limits.hosts, lambda: _most_addresses(cluster)),
        ("rules", len(want.rules), limits.rules, lambda: _most_rows(want)),
        ("endpoints", len(want.assignments), limits.assignments, lambda: "the pods of this node"),
    ]
    for name, needed, limit, biggest in needs:
        if needed > limit:
            text = f"map {name}: {needed} entries are needed, {limit} fit; the most are of {biggest()}"
            raise TooManyRows({}, limit, text) if name == "rules" else CapacityError(text)


def _most_cidrs(cluster: Cluster) -> str:
    counts = {ref: sum(1 for _ in _networks(policy)) for ref, policy in cluster.policies.items()}
    ref = max(counts, key=lambda each: counts[each], default=None)
    return f"{ref} ({counts[ref]} CIDRs and exceptions)" if ref else "the cluster's own ranges"


def _networks(policy: Policy) -> Iterator[object]:
    for _, _, peer in policy.peers():
        if isinstance(peer, CidrPeer):
            yield from (peer.network, *peer.excluded)


def _most_addresses(cluster: Cluster) -> str:
    counts = Counter[str]()
    for pod in cluster.pods.values():
        counts[f"the pods of namespace {pod.namespace}"] += len(pod.addresses)
    for service in cluster.services.values():
        counts[f"the services of namespace {service.namespace}"] += len(service.addresses) + len(service.external)
    return _first(counts)


def _most_rows(want: Want) -> str:
    counts = Counter(key.ruleset for key in want.rules)
    ruleset, rows = counts.most_common(1)[0]
    users = [a.identity for a in want.assignments.values() if a.ruleset == ruleset]
    return f"the ruleset of {users[0] if users else 'no endpoint'} and {max(len(users) - 1, 0)} more ({rows} rows)"


def _first(counts: Counter[str]) -> str:
    return "{} ({})".format(*counts.most_common(1)[0]) if counts else "nobody"
