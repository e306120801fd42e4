"""`dagwall rbac`: who can act as whom, tokens that never expire, the chain from Airflow's roles to policies. Pure.

Only what concerns managed namespaces is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Namespace, ServiceAccount
from agent.model.policy import Policy
from agent.model.rights import Account, AirflowRole, Power, Role, RoleBinding, StoredToken
from agent.model.selector import id_matches
from agent.outputs.rights import Right, reaches, rights

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Access:
    """What a cluster's API server has, and what Airflow exported; `now`: seconds since the epoch."""

    namespaces: Mapping[str, Namespace]
    accounts: tuple[ServiceAccount, ...]
    roles: Mapping[tuple[str, str], Role]
    role_bindings: tuple[RoleBinding, ...]
    tokens: tuple[StoredToken, ...]
    policies: tuple[Policy, ...]
    bindings: tuple[TaskIdentityBinding, ...]
    airflow: tuple[AirflowRole, ...]
    now: float

    @property
    def managed(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, each in self.namespaces.items() if each.managed))

    @property
    def names(self) -> tuple[Account, ...]:
        return tuple(sorted(Account(each.namespace, each.name) for each in self.accounts))


@dataclass(frozen=True, slots=True)
class Chain:
    """From people to packets: `roles` of Airflow edit `dags`, which `account` may claim, and `policies` select it.

    `dags`: patterns of the bindings that name it; empty: none does, so that it may claim every DAG that none keeps.
    """

    account: Account
    external: tuple[str, ...]
    dags: tuple[str, ...]
    roles: tuple[str, ...]
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Where the chain is broken; `about`: an object's name."""

    about: str
    text: str


@dataclass(frozen=True, slots=True)
class Token:
    secret: str
    account: str
    age_days: int
    too_old: bool


@dataclass(frozen=True, slots=True)
class RbacReport:
    rights: tuple[Right, ...]
    tokens: tuple[Token, ...]
    chains: tuple[Chain, ...]
    problems: tuple[Problem, ...]


def report(access: Access, oldest_days: float) -> RbacReport:
    """`oldest_days`: above that a stored token is a problem."""
    managed = access.managed
    found = tuple(
        sorted(
            (
                right
                for right in rights(access.roles, access.role_bindings, access.names)
                if any(reaches(right, namespace) for namespace in managed)
            ),
            key=lambda right: (right.account, list(Power).index(right.power), right.namespace, right.by),
        )
    )
    chains = tuple(_chain(access, each) for each in access.accounts if each.namespace in managed)
    tokens = tuple(_tokens(access, oldest_days))
    return RbacReport(found, tokens, chains, tuple(_problems(access, found, tokens, chains)))


def _chain(access: Access, account: ServiceAccount) -> Chain:
    bound = [
        each
        for each in access.bindings
        if each.namespace == account.namespace and account.name in each.service_accounts
    ]
    dags = tuple(dict.fromkeys(pattern for each in bound for pattern in each.dag_ids))
    return Chain(
        Account(account.namespace, account.name),
        tuple(map(str, account.external)),
        dags,
        tuple(role.name for role in access.airflow if any(_overlap(one, dags) for one in role.dags)),
        tuple(str(policy.ref) for policy in access.policies if _may_select(policy, account, access.namespaces)),
    )


def _overlap(dag: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or dag == "*" or any(id_matches(pattern, dag) for pattern in patterns)


def _may_select(policy: Policy, account: ServiceAccount, namespaces: Mapping[str, Namespace]) -> bool:
    """Some pod of the account, by what its subject says of accounts and namespaces."""
    subject, labels = policy.subject, dict(namespaces[account.namespace].labels)
    return (
        policy.ref.namespace in ("", account.namespace)
        and (not subject.service_accounts or account.name in subject.service_accounts)
        and (subject.namespace_selector is None or subject.namespace_selector.matches(labels))
    )


def _tokens(access: Access, oldest_days: float) -> Iterator[Token]:
    for each in sorted(access.tokens, key=lambda token: token.created):
        if each.namespace in access.managed:
            age = (access.now - each.created) / DAY
            yield Token(f"{each.namespace}/{each.name}", each.account, int(age), age > oldest_days)


def _problems(
    access: Access, found: tuple[Right, ...], tokens: tuple[Token, ...], chains: tuple[Chain, ...]
) -> Iterator[Problem]:
    yield from _of_rights(access, found)
    for token in tokens:
        old = " and is older than the bound" if token.too_old else ""
        text = f"its token for {token.account} never expires{old}: delete it, pods get tokens of their own"
        yield Problem(f"Secret/{token.secret}", text)
    yield from _of_names(access)
    for chain in chains:
        name = f"ServiceAccount/{chain.account}"
        if not chain.policies:
            yield Problem(name, "no policy selects it: its tasks have the namespace's default posture only")
        if not chain.dags:
            yield Problem(name, "no TaskIdentityBinding names it: its pods may claim every DAG that none keeps")
    yield from _of_airflow(access)


def _of_rights(access: Access, found: tuple[Right, ...]) -> Iterator[Problem]:
    """Who is more than one account. Executors make pods, and are told as well."""
    exists = frozenset(access.names)
    for account in dict.fromkeys(right.account for right in found):
        own = [right for right in found if right.account == account]
        name = f"ServiceAccount/{account}"
        if account not in exists:
            yield Problem(name, f"does not exist, and whoever makes it may {own[0].power.value} ({own[0].by})")
            continue
        for namespace in access.managed:
            powers = dict.fromkeys(right.power for right in own if reaches(right, namespace) and not right.names)
            if powers:
                words = ", ".join(power.value for power in powers)
                yield Problem(name, f"can be every service account of namespace {namespace}: it may {words}")


def _of_names(access: Access) -> Iterator[Problem]:
    exists = frozenset(access.names)
    for binding in access.bindings:
        for name in binding.service_accounts:
            if Account(binding.namespace, name) not in exists:
                about = f"TaskIdentityBinding/{binding.name}"
                yield Problem(about, f"names service account {name}, which does not exist")
    for policy in access.policies:
        homes = (policy.ref.namespace,) if policy.ref.namespace else access.managed
        for name in policy.subject.service_accounts:
            if not any(Account(home, name) in exists for home in homes):
                yield Problem(str(policy.ref), f"selects service account {name}, which does not exist")


def _of_airflow(access: Access) -> Iterator[Problem]:
    for role in access.airflow:
        for dag in role.dags:
            if dag != "*" and not any(_overlap(dag, each.dag_ids) for each in access.bindings if each.dag_ids):
                yield Problem(f"Airflow role {role.name}", f"edits DAG {dag}, which no TaskIdentityBinding is about")


def as_dict(found: RbacReport) -> dict[str, Any]:
    """For JSON."""
    return {
        "rights": [
            {"service_account": str(right.account), "power": right.power.value, "names": list(right.names),
             "namespace": right.namespace or "*", "by": right.by}
            for right in found.rights
        ],
        "tokens": [
            {"secret": token.secret, "service_account": token.account, "age_days": token.age_days,
             "too_old": token.too_old}
            for token in found.tokens
        ],
        "chains": [
            {"service_account": str(chain.account), "external_identities": list(chain.external),
             "dag_ids": list(chain.dags), "airflow_roles": list(chain.roles), "policies": list(chain.policies)}
            for chain in found.chains
        ],
        "problems": [{"about": each.about, "text": each.text} for each in found.problems],
    }  # fmt: skip
