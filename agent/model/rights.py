"""Kubernetes' own access control, as far as it decides who can act as which service account."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ALL_NAMESPACES = ""


class Power(str, Enum):
    """What lets a service account be, or become, another one; in the order of a report."""

    MAKE_PODS = "make pods"  # with any service account of the namespace
    ENTER_PODS = "enter pods"  # exec, attach, ephemeral containers: what runs there already
    MINT_TOKENS = "mint tokens"
    READ_SECRETS = "read secrets"  # in which tokens may be
    IMPERSONATE = "impersonate"
    GRANT_ROLES = "grant roles"


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """A service account's name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class RoleRule:
    """A rule of a Role or ClusterRole (rbac.authorization.k8s.io/v1, PolicyRule)."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """`namespace`: "" of a ClusterRole."""

    namespace: str
    name: str
    rules: tuple[RoleRule, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """Of a binding: a service account; or all of a namespace; or, with neither, all that there are."""

    account: Account | None = None
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class RoleBinding:
    """`namespace`: where it grants; ALL_NAMESPACES of a ClusterRoleBinding. `role`: its namespace and name."""

    namespace: str
    name: str
    role: tuple[str, str]
    subjects: tuple[Subject, ...]

    def __str__(self) -> str:
        kind, role = ("RoleBinding", f"{self.namespace}/") if self.namespace else ("ClusterRoleBinding", "")
        of = "Role" if self.role[0] else "ClusterRole"
        return f"{kind} {role}{self.name} ({of} {self.role[1]})"


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A Secret with a token that never expires. `created`: seconds since the epoch."""

    namespace: str
    name: str
    account: str
    created: float


@dataclass(frozen=True, slots=True)
class AirflowRole:
    """A role of Airflow's own access control, and the DAGs that it may edit or run; "*": all."""

    name: str
    dags: tuple[str, ...]
