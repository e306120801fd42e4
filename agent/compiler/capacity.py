"""Does Want fit into the kernel's maps? Asked after the work, for what admission has not foreseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.compiler.names import NAMES
from agent.compiler.needs import needs_of
from agent.compiler.registry import ROWS
from agent.compiler.service_shares import ADDRESSES
from agent.errors import TooMuch
from agent.model.cluster import Cluster
from agent.model.policy import PolicyRef
from agent.model.want import Want

PODS = "pods of this node"


@dataclass(frozen=True, slots=True)
class Limits:
    """Entries that the maps hold."""

    peers: int
    hosts: int
    rules: int
    assignments: int
    names: int = 14_000


def check_capacity(want: Want, limits: Limits, cluster: Cluster) -> None:
    """Raises TooMuch: which map, how many entries are needed, the limit, and who needs the most."""
    needs: list[tuple[str, str, int, int, Callable[[], str]]] = [
        ("peers", "CIDRs and exceptions", len(want.peers), limits.peers, lambda: _most_cidrs(cluster)),
        ("hosts", ADDRESSES, len(want.hosts), limits.hosts, lambda: _most_addresses(cluster)),
        ("names", NAMES, len(want.names), limits.names, lambda: "the policies that name peers by fqdn"),
        ("rules", ROWS, len(want.rules), limits.rules, lambda: _most_rows(want)),
        ("endpoints", PODS, len(want.assignments), limits.assignments, lambda: "the pods of this node"),
    ]
    for name, what, needed, limit, biggest in needs:
        if needed > limit:
            text = f"map {name}: {needed} entries are needed, {limit} fit; the most are of {biggest()}"
            raise TooMuch(what, _cidrs(cluster) if name == "peers" else {}, limit, text, needed - limit)


def _cidrs(cluster: Cluster) -> Mapping[PolicyRef, int]:
    return needs_of(cluster, {**cluster.policies, **cluster.network_policies}).prefixes


def _most_cidrs(cluster: Cluster) -> str:
    counts = _cidrs(cluster)
    ref = max(counts, key=lambda each: counts[each], default=None)
    return f"{ref} ({counts[ref]} CIDRs and exceptions)" if ref else "the cluster's own ranges"


def _most_addresses(cluster: Cluster) -> str:
    counts = Counter[str]()
    for pod in cluster.pods.values():
        counts[f"the pods of namespace {pod.namespace}"] += len(pod.addresses)
    for service in cluster.services.values():
        counts[f"the services of namespace {service.namespace}"] += len(service.addresses) + len(service.external)
    for piece in cluster.slices.values():
        counts[f"the endpoint slices of namespace {piece.namespace}"] += len(piece.addresses)
    return _first(counts)


def _most_rows(want: Want) -> str:
    counts = Counter(key.ruleset for key in want.rules)
    ruleset, rows = counts.most_common(1)[0]
    users = [a.identity for a in want.assignments.values() if a.ruleset == ruleset]
    return f"the ruleset of {users[0] if users else 'no endpoint'} and {max(len(users) - 1, 0)} more ({rows} rows)"


def _first(counts: Counter[str]) -> str:
    return "{} ({})".format(*counts.most_common(1)[0]) if counts else "nobody"
