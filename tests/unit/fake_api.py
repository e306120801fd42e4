"""An API server of a few lines on a real socket, which can be made to lie, to stall and to break off."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KINDS = {
    "namespaces": ("v1", "Namespace"),
    "pods": ("v1", "Pod"),
    "services": ("v1", "Service"),
    "nodes": ("v1", "Node"),
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "serviceaccounts": ("v1", "ServiceAccount"),
    "tasknetworkpolicies": ("dagwall.io/v1alpha1", "TaskNetworkPolicy"),
    "clustertasknetworkpolicies": ("dagwall.io/v1alpha1", "ClusterTaskNetworkPolicy"),
    "taskidentitybindings": ("dagwall.io/v1alpha1", "TaskIdentityBinding"),
}
Obj = dict[str, Any]
Lie = Callable[["Request"], bool]
"""True: it has answered."""


class Request(BaseHTTPRequestHandler):
    """One request; lies use `reply`, `wfile` and `connection`."""

    protocol_version = "HTTP/1.1"
    api: FakeApi

    @property
    def plural(self) -> str:
        return urlsplit(self.path).path.rsplit("/", 1)[-1]

    @property
    def query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}

    @property
    def watches(self) -> bool:
        return self.query.get("watch") == "true"

    def do_GET(self) -> None:
        if not self.api.lie(self):
            self.api.answer(self)

    def reply(self, body: object, status: int = 200, kind: str = "application/json") -> bool:
        text = body if isinstance(body, bytes) else encoded(body)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        return True

    def refuse(self, status: int, message: str = "no") -> bool:
        return self.reply({"kind": "Status", "code": status, "message": message}, status)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def line(self, kind: str, obj: Obj) -> None:
        text = encoded({"type": kind, "object": obj}) + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))

    def log_message(self, *_: object) -> None:
        pass


def nested(levels: int) -> str:
    """In an object: so many lists in one another, which Go's encoder writes and Python's does not."""
    return f"nested {levels}"


def encoded(body: object) -> bytes:
    def lists(found: re.Match[bytes]) -> bytes:
        levels = int(found.group(1))
        return b"[" * levels + b"]" * levels

    return re.sub(rb'"nested (\d+)"', lists, json.dumps(body).encode())


def honest(_: Request) -> bool:
    return False


class FakeApi:
    """Use as a context manager. `lie` may be exchanged at any time, and ends the watches that are open."""

    def __init__(self, *, bookmark_seconds: float = 0.2) -> None:
        self.version, self._objects = 1000, {plural: dict[str, Obj]() for plural in KINDS}
        self._history: list[tuple[str, str, Obj]] = []
        self._changed, self._bookmarks = threading.Condition(), bookmark_seconds
        self.lie: Lie = honest
        self._epoch = 0
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Request,), {"api": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.put("namespaces", "default")
        self.put("services", "kubernetes", "default", spec={"clusterIP": "10.96.0.1", "ports": [{"port": 443}]})

    def __enter__(self) -> FakeApi:
        threading.Thread(target=lambda: self._server.serve_forever(0.01), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    def put(self, plural: str, name: str, namespace: str = "", *, labels: Obj | None = None, **parts: Any) -> Obj:
        with self._changed:
            self.version += 1
            before = self._objects[plural].get(f"{namespace}/{name}")
            version, kind = KINDS[plural]
            metadata = {
                "name": name, "labels": labels or {}, "resourceVersion": str(self.version),
                "generation": self.version,
                "uid": before["metadata"]["uid"] if before else str(uuid.uuid4()),
            } | ({"namespace": namespace} if namespace else {}) | parts.pop("metadata", {})  # fmt: skip
            obj = {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}
            self._objects[plural][f"{namespace}/{name}"] = obj
            self._history.append((plural, "MODIFIED" if before else "ADDED", obj))
            self._changed.notify_all()
            return obj

    def delete(self, plural: str, name: str, namespace: str = "") -> None:
        with self._changed:
            self.version += 1
            obj = self._objects[plural].pop(f"{namespace}/{name}")
            metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
            self._history.append((plural, "DELETED", {**obj, "metadata": metadata}))
            self._changed.notify_all()

    def saved(self) -> tuple[int, dict[str, dict[str, Obj]]]:
        return self.version, {plural: dict(objects) for plural, objects in self._objects.items()}

    def restore(self, saved: tuple[int, dict[str, dict[str, Obj]]]) -> None:
        """A backup: its version, and no history."""
        with self._changed:
            self.version, self._objects = saved[0], {plural: dict(objects) for plural, objects in saved[1].items()}
            self._history.clear()

    def cut(self) -> None:
        """Ends every watch."""
        with self._changed:
            self._epoch += 1
            self._changed.notify_all()

    @contextmanager
    def lying(self, lie: Lie) -> Any:
        self.lie = lie
        self.cut()
        try:
            yield
        finally:
            self.lie = honest
            self.cut()

    def lies(self) -> Callable[[], bool]:
        """Whether the lie of now is still told."""
        epoch = self._epoch
        return lambda: self._epoch == epoch

    def answer(self, request: Request) -> None:
        path = urlsplit(request.path).path
        self.asked.append(path)
        if path == "/apis":
            request.reply(self.groups())
        elif path == "/apis/dagwall.io/v1alpha1":
            ours = [plural for plural, (version, _) in KINDS.items() if version.startswith("dagwall.io")]
            request.reply({"kind": "APIResourceList", "resources": [{"name": name} for name in ours]})
        elif request.plural not in KINDS:
            request.refuse(404)
        elif request.watches:
            self._watch(request)
        else:
            request.reply(self.listing(request.plural))

    def groups(self, names: Iterable[str] = ("discovery.k8s.io", "dagwall.io")) -> Obj:
        versions = {"discovery.k8s.io": "v1", "dagwall.io": "v1alpha1", "apps": "v1"}
        groups = [{"name": name, "versions": [{"version": versions[name]}]} for name in names]
        return {"kind": "APIGroupList", "groups": groups}

    def listing(self, plural: str) -> Obj:
        version, kind = KINDS[plural]
        with self._changed:
            items = [_member(obj) for obj in self._objects[plural].values()]
            return {
                "kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": str(self.version)},
                "items": items,
            }  # fmt: skip

    def _watch(self, request: Request) -> None:
        request.stream()
        sent, epoch = int(request.query["resourceVersion"]), self._epoch
        try:
            while self._epoch == epoch:
                with self._changed:
                    due = [h for h in self._history if h[0] == request.plural and _version(h[2]) > sent]
                    reached = self.version
                    if not due:
                        self._changed.wait(self._bookmarks)
                for _, kind, obj in due:
                    request.line(kind, obj)
                    sent = _version(obj)
                if not due and reached >= sent:
                    sent = reached
                    request.line("BOOKMARK", self._bookmark(request.plural, sent))
            request.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass

    def _bookmark(self, plural: str, version: int) -> Obj:
        return {"kind": KINDS[plural][1], "metadata": {"resourceVersion": str(version)}}


def _member(obj: Obj) -> Obj:
    return {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")}


def _version(obj: Obj) -> int:
    return int(obj["metadata"]["resourceVersion"])


def hang(request: Request) -> bool:
    """Says nothing for as long as the lie is told."""
    lies = request.api.lies()
    while lies():
        time.sleep(0.05)
    request.close_connection = True
    return True
