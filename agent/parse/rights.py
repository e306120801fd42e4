"""Roles, bindings, stored tokens, as the API server lists them; Airflow's roles, as `airflow roles export` has them.

What an API server has accepted is valid; what is missing counts as empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from agent.errors import DagwallError
from agent.model.rights import Account, AirflowRole, Role, RoleBinding, RoleRule, StoredToken, Subject

Document = Mapping[str, Any]
_EVERYBODY = ("system:serviceaccounts", "system:authenticated")
_OF_NAMESPACE = "system:serviceaccounts:"
_USER = "system:serviceaccount:"
OF_ACCOUNT = "kubernetes.io/service-account.name"
_WRITES = ("can_edit", "can_create", "can_delete")
_ALL_DAGS, _ONE_DAG = "DAGs", "DAG:"


def parse_role(document: Document) -> Role:
    """A Role or a ClusterRole."""
    rules = (
        RoleRule(*(tuple(rule.get(key) or ()) for key in ("apiGroups", "resources", "verbs", "resourceNames")))
        for rule in document.get("rules") or ()
    )
    return Role(_namespace(document), _name(document), tuple(rules))


def parse_binding(document: Document) -> RoleBinding:
    """A RoleBinding or a ClusterRoleBinding."""
    role, namespace = document.get("roleRef") or {}, _namespace(document)
    return RoleBinding(
        namespace,
        _name(document),
        (namespace if role.get("kind") == "Role" else "", str(role.get("name", ""))),
        tuple(each for subject in document.get("subjects") or () for each in _subject(subject, namespace)),
    )


def _subject(subject: Document, namespace: str) -> Iterator[Subject]:
    """People, and other groups, are none of ours."""
    kind, name = subject.get("kind"), str(subject.get("name", ""))
    if kind == "ServiceAccount":
        yield Subject(Account(str(subject.get("namespace") or namespace), name))
    elif kind == "Group" and name in _EVERYBODY:
        yield Subject()
    elif kind == "Group" and name.startswith(_OF_NAMESPACE):
        yield Subject(namespace=name.removeprefix(_OF_NAMESPACE))
    elif kind == "User" and name.startswith(_USER) and name.count(":") == 3:
        yield Subject(Account(*name.removeprefix(_USER).split(":")))


def parse_stored_token(document: Document) -> StoredToken:
    """The metadata of a Secret of type kubernetes.io/service-account-token; its data is not looked at."""
    metadata = document.get("metadata") or {}
    created = datetime.fromisoformat(str(metadata["creationTimestamp"]).replace("Z", "+00:00")).timestamp()
    account = str((metadata.get("annotations") or {}).get(OF_ACCOUNT, ""))
    return StoredToken(_namespace(document), _name(document), account, created)


def parse_airflow_roles(document: object, path: str) -> tuple[AirflowRole, ...]:
    """What `airflow roles export` writes: a list of name, resource, action. Raises DagwallError."""
    if not isinstance(document, list) or not all(isinstance(each, dict) and "name" in each for each in document):
        raise DagwallError(f"{path}: must be a JSON list of roles, as `airflow roles export` writes it")
    found: dict[str, list[str]] = defaultdict(list)
    for each in document:
        dags = found[str(each["name"])]
        resource, actions = str(each.get("resource") or ""), str(each.get("action") or "")
        if any(word in actions for word in _WRITES):
            dags.extend(_dags(resource))
    return tuple(AirflowRole(name, tuple(dict.fromkeys(dags))) for name, dags in sorted(found.items()))


def _dags(resource: str) -> Iterable[str]:
    if resource == _ALL_DAGS:
        return ("*",)
    return (resource.removeprefix(_ONE_DAG),) if resource.startswith(_ONE_DAG) else ()


def _namespace(document: Document) -> str:
    return str((document.get("metadata") or {}).get("namespace") or "")


def _name(document: Document) -> str:
    return str((document.get("metadata") or {}).get("name") or "")
