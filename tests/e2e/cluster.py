"""A cluster given by KUBECONFIG: objects by the API, commands in pods by exec, and on the node by E2E_NODE_SHELL."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import websocket
from kubernetes import client, config
from kubernetes.stream import ws_client

from agent.errors import ApiError
from agent.sources.kube_api import KubeApi

T = TypeVar("T")
SLOW_SECONDS = 1200.0
"""How long anything may take: the machine may be emulated."""

_GROUPS = {"customresourcedefinitions": "apis/apiextensions.k8s.io/v1"}
_PLURALS = {"TaskNetworkPolicy": "tasknetworkpolicies", "ClusterTaskNetworkPolicy": "clustertasknetworkpolicies"}


def wait_for(what: str, look: Callable[[], T | None], seconds: float = SLOW_SECONDS) -> T:
    """What `look` finds, as soon as it finds anything. A busy or unreachable API server counts as nothing found."""
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            found = look()
        except (ApiError, ws_client.ApiException) as exc:
            if 400 <= exc.status < 500 and exc.status not in (404, 409):
                raise
            found, last = None, str(exc)
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"no {what} within {seconds:.0f} s. {last}")


@dataclass(frozen=True, slots=True)
class _Said:
    code: int
    stdout: str
    stderr: str


class Cluster:
    """By KUBECONFIG. Raises ApiError."""

    def __init__(self) -> None:
        kubeconfig = os.environ["KUBECONFIG"]
        self.api = KubeApi.connect(kubeconfig)
        settings = client.Configuration()
        config.load_kube_config(kubeconfig, client_configuration=settings)
        self._settings = settings

    def path(self, obj: dict[str, Any], *, named: bool = True) -> str:
        version, metadata, kind = obj["apiVersion"], obj["metadata"], obj["kind"]
        plural = _PLURALS.get(kind, f"{kind.lower()}s")
        prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
        namespace = f"/namespaces/{metadata['namespace']}" if metadata.get("namespace") else ""
        return f"{prefix}{namespace}/{plural}" + (f"/{metadata['name']}" if named else "")

    def apply(self, *objects: dict[str, Any]) -> None:
        """By server-side apply: made, or changed where they are there."""
        query = {"fieldManager": "dagwall-e2e", "force": "true"}
        for obj in objects:

            def patch(obj: dict[str, Any] = obj) -> dict[str, Any]:
                return self.api.send("PATCH", self.path(obj), obj, kind="application/apply-patch+yaml", **query)

            wait_for(f"{obj['kind']} {obj['metadata']['name']}", patch)

    def get(self, obj: dict[str, Any]) -> dict[str, Any]:
        return self.api.get(self.path(obj))

    def list(self, path: str, **query: str) -> list[dict[str, Any]]:
        return list(self.api.get(path, **query)["items"])

    def delete(self, *objects: dict[str, Any]) -> None:
        """And wait until they have gone."""
        for obj in objects:
            wait_for(f"end of {obj['metadata']['name']}", lambda obj=obj: self._deleted(obj))  # type: ignore[misc]
        for obj in objects:
            wait_for(f"end of {obj['metadata']['name']}", lambda obj=obj: self._gone(obj))  # type: ignore[misc]

    def log(self, namespace: str, pod: str, **query: str) -> str:
        """What a container has written; "" where it has not begun."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        try:
            return self.api._open(path, query, read_seconds=60).read().decode(errors="replace")
        except ApiError as exc:
            if exc.status != 400:
                raise
            return ""

    def run(self, namespace: str, pod: str, *command: str, container: str = "") -> str:
        """Standard output of a command in a pod's container; it runs again if the connection is lost.

        Raises AssertionError with both outputs if it fails.
        """
        query = [("command", word) for word in command] + [("stdout", "true"), ("stderr", "true")]
        query += [("container", container)] if container else []
        host = self._settings.host.replace("http", "ws", 1)
        url = f"{host}/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urlencode(query)}"
        said = wait_for(f"answer of {pod}", lambda: self._said(url))
        if said.code:
            raise AssertionError(f"{shlex.join(command)[:200]}: {said.code}\n{said.stdout}\n{said.stderr}")
        return said.stdout

    def _said(self, url: str) -> _Said | None:
        """None where the connection was lost before the command's end."""
        shell = ws_client.WSClient(self._settings, url, {}, capture_all=True)
        stdout = stderr = ""
        try:
            while shell.is_open():
                shell.update(timeout=5)
                stdout += shell.read_stdout(timeout=0) or ""
                stderr += shell.read_stderr(timeout=0) or ""
            return _Said(shell.returncode, stdout, stderr)
        except (websocket.WebSocketException, TypeError):  # TypeError: it ended without a status
            return None
        finally:
            shell.close()

    def _deleted(self, obj: dict[str, Any]) -> bool:
        try:
            return bool(self.api.send("DELETE", self.path(obj), {"gracePeriodSeconds": 0}))
        except ApiError as exc:
            if exc.status != 404:
                raise
            return True

    def _gone(self, obj: dict[str, Any]) -> bool:
        try:
            self.get(obj)
        except ApiError as exc:
            if exc.status != 404:
                raise
            return True
        return False


class NodeShell:
    """The node's own shell: E2E_NODE_SHELL and a line, as in `ssh root@node` or `docker exec NODE sh -c`."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)

    def run(self, line: str, *, seconds: float = SLOW_SECONDS) -> str:
        done = subprocess.run(
            [*self._command, line],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout


def ready(pod: dict[str, Any]) -> bool:
    conditions: Iterable[dict[str, Any]] = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
