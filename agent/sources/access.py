"""One look at everything that decides who can act as whom: roles, bindings, stored tokens, policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from agent.errors import ApiError, InvalidObject
from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Namespace, ServiceAccount
from agent.model.policy import Policy
from agent.model.rights import Role, RoleBinding, StoredToken
from agent.parse.object_kinds import OBJECT_KINDS
from agent.parse.objects import parse_object
from agent.parse.rights import parse_binding, parse_role, parse_stored_token
from agent.sources.kube_api import METADATA_ONLY, KubeApi
from agent.sources.reflector import Resource

_RBAC = "rbac.authorization.k8s.io/v1"
_ROLES = Resource("Role", _RBAC, "roles"), Resource("ClusterRole", _RBAC, "clusterroles")
_BINDINGS = (
    Resource("RoleBinding", _RBAC, "rolebindings"),
    Resource("ClusterRoleBinding", _RBAC, "clusterrolebindings"),
)
_TOKENS = Resource(METADATA_ONLY, "v1", "secrets", field_selector="type=kubernetes.io/service-account-token")
V = TypeVar("V", Namespace, ServiceAccount, Policy, TaskIdentityBinding)


class AccessReader:
    """Reads with whatever credentials the caller has. Raises ApiError; what is refused is named by its path."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def namespaces(self) -> dict[str, Namespace]:
        return {each.name: each for each in self._of(Namespace)}

    def accounts(self) -> tuple[ServiceAccount, ...]:
        return tuple(self._of(ServiceAccount))

    def policies(self) -> tuple[Policy, ...]:
        return tuple(self._of(Policy))

    def bindings(self) -> tuple[TaskIdentityBinding, ...]:
        return tuple(self._of(TaskIdentityBinding))

    def roles(self) -> dict[tuple[str, str], Role]:
        return {(role.namespace, role.name): role for role in map(parse_role, self._items(*_ROLES))}

    def role_bindings(self) -> tuple[RoleBinding, ...]:
        return tuple(map(parse_binding, self._items(*_BINDINGS)))

    def tokens(self) -> tuple[StoredToken, ...]:
        """Of Secrets only the metadata leave the server."""
        return tuple(map(parse_stored_token, self._items(_TOKENS)))

    def _of(self, value: type[V]) -> Iterator[V]:
        """What an agent would refuse is not in force. A server without our definitions has none."""
        for kind in (each for each in OBJECT_KINDS if each.value is value):
            resource = Resource(kind.kind, kind.versions[0], kind.plural)
            try:
                for item in self._items(resource):
                    with suppress(InvalidObject):
                        found = parse_object(resource.typed(item))
                        if isinstance(found, value):
                            yield found
            except ApiError as exc:
                if exc.status != 404 or not kind.ours:
                    raise

    def _items(self, *resources: Resource) -> Iterator[Mapping[str, Any]]:
        return (each for resource in resources for items, _ in self._api.pages(resource) for each in items)
