"""This node's own object: its uid, and the taint that keeps tasks away until the agent has been ready here (L3).

Whoever makes nodes gives them the taint (the kubelet's --register-with-taints); the agent only takes it off. Its
right to patch nodes is confined to its own node and this taint by deploy/startup-taint.yaml, which gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from agent.errors import ApiError
from agent.log import event
from agent.parse.cluster_objects import STARTUP_TAINT


class Api(Protocol):
    """Raises ApiError."""

    def get(self, path: str, **query: str | int) -> dict[str, Any]: ...

    def send(
        self, method: str, path: str, body: Mapping[str, Any], *, kind: str = ..., **query: str
    ) -> dict[str, Any]: ...


class OwnNode:
    """The requests about one Node."""

    def __init__(self, api: Api, name: str) -> None:
        self._api, self.name, self._path = api, name, f"/api/v1/nodes/{name}"
        self._uid = ""

    def uid(self) -> str:
        """ "" where the server knows no such node; what it knows is read once. Raises ApiError."""
        if not self._uid:
            try:
                self._uid = str(self._api.get(self._path).get("metadata", {}).get("uid") or "")
            except ApiError as exc:
                if exc.status not in (403, 404):
                    raise
        return self._uid

    def untaint(self) -> bool:
        """Take the taint off, if nobody changes the node meanwhile: that is error 409. True. Raises ApiError."""
        node = self._api.get(self._path)
        taints = node.get("spec", {}).get("taints") or []
        others = [taint for taint in taints if taint.get("key") != STARTUP_TAINT]
        if len(others) == len(taints):
            return True
        patch = {
            "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
            "spec": {"taints": others or None},
        }
        self._api.send("PATCH", self._path, patch, kind="application/merge-patch+json")
        event("node.untainted", node=self.name, taint=STARTUP_TAINT)
        return True
