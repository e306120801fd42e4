"""Names in policies and bindings that are among none of the files, though the files hold such objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.model.cluster import Cluster
from agent.model.policy import Policy, PolicyRef
from agent.parse.bindings import BINDING_KIND
from agent.parse.objects import ObjectName
from agent.semantics.peers import namespace_named

Missing = tuple[PolicyRef, str, str]
"""Whose, the field, a sentence."""


def missing(cluster: Cluster, written: Iterable[ObjectName]) -> Iterator[Missing]:
    """`written`: all objects of the files; what only follows from them (implied namespaces) is not there."""
    names = frozenset(written)
    namespaces = frozenset(name.name for name in names if name.kind == "Namespace")
    accounts = frozenset((name.namespace, name.name) for name in names if name.kind == "ServiceAccount")
    for _, policy in sorted(cluster.policies.items()):
        homes = [policy.ref.namespace] if policy.ref.namespace else sorted(namespaces)
        yield from _in_accounts(policy.ref, "spec.subject", homes, policy.subject.service_accounts, accounts)
        for field, namespace in _namespaces_of(policy):
            yield from _in_namespaces(policy.ref, field, namespace, namespaces)
    for _, binding in sorted(cluster.bindings.items()):
        ref = PolicyRef("", BINDING_KIND, binding.name)
        yield from _in_namespaces(ref, "spec.namespace", binding.namespace, namespaces)
        yield from _in_accounts(ref, "spec", [binding.namespace], binding.service_accounts, accounts)


def _namespaces_of(policy: Policy) -> Iterator[tuple[str, str]]:
    if policy.ref.namespace:
        yield "metadata.namespace", policy.ref.namespace
    for place, _, peer in policy.peers():
        namespace = namespace_named(peer)
        if namespace:
            yield f"spec.{place}", namespace


def _in_namespaces(ref: PolicyRef, field: str, namespace: str, known: frozenset[str]) -> Iterator[Missing]:
    if known and namespace not in known:
        yield ref, field, f"namespace {namespace} is not among these files (there are: {_listed(known)})"


def _in_accounts(
    ref: PolicyRef, field: str, homes: list[str], accounts: tuple[str, ...], known: frozenset[tuple[str, str]]
) -> Iterator[Missing]:
    if not any(namespace in homes for namespace, _ in known):
        return  # these files hold none: they are not about accounts
    for account in accounts:
        if not any((home, account) in known for home in homes):
            there = _listed(f"{namespace}/{name}" for namespace, name in known if namespace in homes)
            yield ref, f"{field}.serviceAccounts", f"account {account} is not among these files (there are: {there})"


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
