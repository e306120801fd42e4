"""One look at everything that decides who can act as whom: roles, bindings, stored tokens, policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from agent.errors import ApiError, InvalidObject
from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Namespace, ServiceAccount
from agent.model.policy import Policy
from agent.model.rights import Role, RoleBinding, StoredToken
from agent.parse.objects import parse_object
from agent.parse.rights import parse_binding, parse_role, parse_stored_token
from agent.sources.kube_api import KubeApi

_RBAC, _VERSION = "/apis/rbac.authorization.k8s.io/v1", "dagwall.io/v1alpha1"
_OURS = f"/apis/{_VERSION}"
_PAGE = 500


class AccessReader:
    """Reads with whatever credentials the caller has. Raises ApiError; what is refused is named by its path."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def namespaces(self) -> dict[str, Namespace]:
        return {each.name: each for each in self._ours("/api/v1/namespaces", "v1", "Namespace", Namespace)}

    def accounts(self) -> tuple[ServiceAccount, ...]:
        return tuple(self._ours("/api/v1/serviceaccounts", "v1", "ServiceAccount", ServiceAccount))

    def policies(self) -> tuple[Policy, ...]:
        kinds = {"tasknetworkpolicies": "TaskNetworkPolicy", "clustertasknetworkpolicies": "ClusterTaskNetworkPolicy"}
        found = (self._ours(f"{_OURS}/{plural}", _VERSION, kind, Policy) for plural, kind in kinds.items())
        return tuple(chain.from_iterable(found))

    def bindings(self) -> tuple[TaskIdentityBinding, ...]:
        path = f"{_OURS}/taskidentitybindings"
        return tuple(self._ours(path, _VERSION, "TaskIdentityBinding", TaskIdentityBinding))

    def roles(self) -> dict[tuple[str, str], Role]:
        lists = (self._items(f"{_RBAC}/{plural}") for plural in ("roles", "clusterroles"))
        found = (parse_role(each) for items in lists for each in items)
        return {(role.namespace, role.name): role for role in found}

    def role_bindings(self) -> tuple[RoleBinding, ...]:
        plurals = ("rolebindings", "clusterrolebindings")
        return tuple(parse_binding(each) for plural in plurals for each in self._items(f"{_RBAC}/{plural}"))

    def tokens(self) -> tuple[StoredToken, ...]:
        kind = "type=kubernetes.io/service-account-token"
        return tuple(map(parse_stored_token, self._items("/api/v1/secrets", metadata=True, fieldSelector=kind)))

    def _ours(self, path: str, version: str, kind: str, made: type[Any]) -> Iterator[Any]:
        """What an agent would refuse is not in force. A server without our definitions has none."""
        try:
            for item in self._items(path):
                try:
                    found = parse_object({**item, "apiVersion": version, "kind": kind})
                except InvalidObject:
                    continue
                if isinstance(found, made):
                    yield found
        except ApiError as exc:
            if exc.status != 404 or not path.startswith(_OURS):
                raise

    def _items(self, path: str, *, metadata: bool = False, **query: str | int) -> Iterator[Mapping[str, Any]]:
        asked: dict[str, str | int] = {"limit": _PAGE, **query}
        get = self._api.get_metadata if metadata else self._api.get
        while True:
            answer = get(path, **asked)
            yield from answer.get("items") or ()
            more = (answer.get("metadata") or {}).get("continue")
            if not more:
                return
            asked["continue"] = str(more)
