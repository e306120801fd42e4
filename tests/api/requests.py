"""Requests that tests make of an API server, whichever it is."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any, ClassVar


class Requests:
    """`url` and `tls` are the server's; `headers` go with each request."""

    url: str
    headers: ClassVar[dict[str, str]] = {}

    def tls(self) -> ssl.SSLContext | None:
        raise NotImplementedError

    def request(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Any:
        """As an administrator: the decoded answer, or its text. Raises urllib.error.HTTPError."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": kind, **self.headers}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, context=self.tls(), timeout=20) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith("{") else text

    def apply(self, *objects: dict[str, Any]) -> list[dict[str, Any]]:
        """Create each object, or replace it where it is there."""
        return [self._apply(obj) for obj in objects]

    def refusal(self, obj: dict[str, Any]) -> str:
        """Why the server would not take it; "" where it would, or has it."""
        try:
            self.request("POST", f"{self.path_of(obj, named=False)}?dryRun=All", obj)
        except urllib.error.HTTPError as exc:
            return "" if exc.code == 409 else exc.read().decode()
        return ""

    def path_of(self, obj: dict[str, Any], *, named: bool) -> str:
        version, metadata = obj["apiVersion"], obj["metadata"]
        plural = _PLURALS.get(obj["kind"], f"{obj['kind'].lower()}s")
        prefix = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        namespace = f"/namespaces/{metadata['namespace']}" if metadata.get("namespace") else ""
        return f"{prefix}{namespace}/{plural}" + (f"/{metadata['name']}" if named else "")

    def delete(self, obj: dict[str, Any]) -> None:
        with contextlib.suppress(urllib.error.HTTPError):
            self.request("DELETE", self.path_of(obj, named=True) + "?gracePeriodSeconds=0")

    def _apply(self, obj: dict[str, Any]) -> dict[str, Any]:
        try:
            made = self.request("POST", self.path_of(obj, named=False), obj)
        except urllib.error.HTTPError as exc:
            if exc.code != 409:
                raise RuntimeError(f"{obj['kind']}: {exc.code} {exc.read().decode()[:2000]}") from exc
            made = self._replace(obj)
        return dict(made)

    def _replace(self, obj: dict[str, Any], tries: int = 5) -> Any:
        """An agent may write the object's status in between."""
        old = self.request("GET", self.path_of(obj, named=True))
        metadata = {**obj["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
        try:
            return self.request("PUT", self.path_of(obj, named=True), {**obj, "metadata": metadata})
        except urllib.error.HTTPError as exc:
            if exc.code != 409 or tries <= 1:
                raise
            return self._replace(obj, tries - 1)


_PLURALS = {
    "NetworkPolicy": "networkpolicies",
    "TaskNetworkPolicy": "tasknetworkpolicies",
    "ClusterTaskNetworkPolicy": "clustertasknetworkpolicies",
    "CustomResourceDefinition": "customresourcedefinitions",
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
