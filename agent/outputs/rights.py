"""What service accounts may do by Kubernetes' roles, as far as they can act as another one by it. Pure.

Source: kubernetes.io, "Using RBAC Authorization", "Privilege escalation via pod creation".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.model.rights import ALL_NAMESPACES, Account, Power, Role, RoleBinding, RoleRule, Subject

_WORKLOADS = {
    "": ("pods", "replicationcontrollers"),
    "apps": ("deployments", "daemonsets", "statefulsets", "replicasets"),
    "batch": ("jobs", "cronjobs"),
}
_WRITES, _ROLES = ("create", "update", "patch"), "rbac.authorization.k8s.io"
_NEEDS: tuple[tuple[Power, str, tuple[str, ...], tuple[str, ...]], ...] = (
    *((Power.MAKE_PODS, group, names, _WRITES if group else ("create",)) for group, names in _WORKLOADS.items()),
    (Power.MAKE_PODS, "", ("replicationcontrollers",), _WRITES),
    (Power.ENTER_PODS, "", ("pods/exec", "pods/attach"), ("create", "get")),
    (Power.ENTER_PODS, "", ("pods/ephemeralcontainers",), ("update", "patch")),
    (Power.MINT_TOKENS, "", ("serviceaccounts/token",), ("create",)),
    (Power.READ_SECRETS, "", ("secrets",), ("get", "list", "watch")),
    (Power.IMPERSONATE, "", ("serviceaccounts", "users", "groups"), ("impersonate",)),
    (Power.GRANT_ROLES, _ROLES, ("roles", "clusterroles"), ("bind", "escalate")),
)
"""(power, API group, resources, verbs): any verb on any resource gives it."""
_BY_NAME = frozenset({Power.MINT_TOKENS, Power.READ_SECRETS, Power.IMPERSONATE})
"""A rule with resourceNames gives these for the names; a new pod has no name that a rule could know."""


@dataclass(frozen=True, slots=True)
class Right:
    """`namespace`: where; ALL_NAMESPACES: in every one. `names`: of the resources; empty: all. `by`: the binding."""

    account: Account
    power: Power
    namespace: str
    names: tuple[str, ...]
    by: str


def rights(
    roles: Mapping[tuple[str, str], Role], bindings: Iterable[RoleBinding], accounts: Iterable[Account]
) -> Iterator[Right]:
    """Of every account: those that there are, and those that a binding names although they are not."""
    every = tuple(accounts)
    for binding in bindings:
        role = roles.get(binding.role)
        powers = dict.fromkeys(powers_of(role)) if role is not None else {}
        if not powers:
            continue
        for account in dict.fromkeys(each for subject in binding.subjects for each in _accounts(subject, every)):
            for power, names in powers:
                yield Right(account, power, binding.namespace, names, str(binding))


def powers_of(role: Role) -> Iterator[tuple[Power, tuple[str, ...]]]:
    """With the names to which each is bound."""
    for rule in role.rules:
        for power, group, resources, verbs in _NEEDS:
            if _covers(rule, group, resources, verbs) and (not rule.names or power in _BY_NAME):
                yield power, rule.names


def _covers(rule: RoleRule, group: str, resources: tuple[str, ...], verbs: tuple[str, ...]) -> bool:
    return (
        not {group, "*"}.isdisjoint(rule.groups)
        and not {*verbs, "*"}.isdisjoint(rule.verbs)
        and any(_is_named(rule, resource) for resource in resources)
    )


def _is_named(rule: RoleRule, resource: str) -> bool:
    """`*/exec` means that subresource of every resource."""
    _, slash, sub = resource.partition("/")
    return bool({resource, "*", *([f"*/{sub}"] if slash else [])} & set(rule.resources))


def _accounts(subject: Subject, every: tuple[Account, ...]) -> Iterator[Account]:
    if subject.account is not None:
        yield subject.account
    else:
        yield from (each for each in every if subject.namespace in ("", each.namespace))


def reaches(right: Right, namespace: str) -> bool:
    return right.namespace in (ALL_NAMESPACES, namespace)
