"""Valid fields that cannot do what their author thinks: attestation, port names, layers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.model.binding import ExclusiveScope
from agent.model.cluster import Cluster
from agent.model.identity import Attestation
from agent.model.network_policy import NetworkPolicyRule
from agent.model.policy import Entity, EntityPeer, FqdnPeer, Policy, PolicyRef, Posture, Rule, TaskPeer
from agent.model.selector import id_matches

_LIKE_A_NUMBER = re.compile(r"0[xob][0-9a-f]+")
Pitfall = tuple[PolicyRef, str, str]
"""Whose, the field, a sentence."""


def pitfalls(cluster: Cluster) -> Iterator[Pitfall]:
    for ref, policy in sorted(cluster.policies.items()):
        yield from _attestation(cluster, policy)
        for place, rule in policy.rules():
            yield from _port_names(ref, place, rule)
        yield from _names_without_dns(cluster, policy)
    for ref, native in sorted(cluster.network_policies.items()):
        for found in (*(native.egress or ()), *(native.ingress or ())):
            yield from _port_names(ref, found.name, found)
    if cluster.network_policies and not cluster.settings.network_policy:
        first, count = min(cluster.network_policies), len(cluster.network_policies)
        more = f", nor are {count - 1} others" if count > 1 else ""
        yield first, "", f"is not enforced{more}: --network-policy (networkPolicy in the configuration) is off"


def _attestation(cluster: Cluster, policy: Policy) -> Iterator[Pitfall]:
    """I4"""
    if policy.attestation is Attestation.SIGNED:
        yield policy.ref, "spec.attestation", "no pod earns 'signed' in this release: its allow rules allow nothing"
    home = policy.ref.namespace
    vouching = any(not home or binding.namespace == home for binding in cluster.bindings.values())
    if policy.attestation is Attestation.BOUND and not vouching:
        where = f" for namespace {home}" if home else ""
        text = f"no TaskIdentityBinding is here{where}, so that no pod earns 'bound': its allow rules allow nothing"
        yield policy.ref, "spec.attestation", text


def _port_names(ref: PolicyRef, place: str, rule: Rule | NetworkPolicyRule) -> Iterator[Pitfall]:
    for j, port in enumerate(rule.ports or ()):
        if port.name is not None and _LIKE_A_NUMBER.fullmatch(port.name):
            number = int(port.name, 0)
            text = f"is the name of a port, {port.name!r}, and no number; write {number} for the number"
            yield ref, f"spec.{place}.ports[{j}].port", text


def _names_without_dns(cluster: Cluster, policy: Policy) -> Iterator[Pitfall]:
    """Names are learned from the answers of servers of entity `dns` only (P6, S4)."""
    namespace = cluster.namespaces.get(policy.ref.namespace)
    baseline = cluster.settings.baseline if namespace is None or namespace.baseline is None else namespace.baseline
    allowed = any(peer == EntityPeer(Entity.DNS) for each in cluster.policies.values() for _, _, peer in each.peers())
    if Entity.DNS in baseline or allowed:
        return
    for place, _, peer in policy.peers():
        if isinstance(peer, FqdnPeer):
            yield policy.ref, f"spec.{place}.fqdn", "no rule allows entity dns, from whose answers names are learned"
            return


def is_bound(cluster: Cluster, policy: Policy, peer: TaskPeer) -> bool:
    """Does an enforced exclusive binding keep all ids of a `tasks` peer from those that it does not name (I5)?"""
    namespace = peer.namespace or policy.ref.namespace
    keeping = [
        pattern
        for binding in cluster.bindings.values()
        if binding.exclusive and binding.posture is Posture.ENFORCE and not binding.task_ids
        if binding.exclusive_scope is ExclusiveScope.CLUSTER or binding.namespace == namespace
        for pattern in binding.dag_ids
    ]
    return bool(peer.dag_ids) and all(any(id_matches(kept, each) for kept in keeping) for each in peer.dag_ids)
