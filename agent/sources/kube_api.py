"""The API server over HTTP: pages of lists, lines of watches, single writes, by the kubernetes client's credentials.

Typed models are not used: they cost more time and memory than all the rest. Errors of the server and the network are
ApiError; what the server says in JSON is returned as it is.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from agent.errors import ApiError
from agent.sources.reflector import Resource

PAGE = 200
"""Objects in one answer of a list: bounds the memory of decoding, 10 to 30 KB of JSON for a pod."""

CONNECT_SECONDS = 5.0


class KubeApi:
    """One API server. Thread-safe; each watch holds a connection of its own."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.host = str(api.configuration.host).rstrip("/")

    @classmethod
    def connect(cls, kubeconfig: str = "") -> KubeApi:
        """By a kubeconfig file, else as a pod, else by the default kubeconfig. Does not talk to the server yet.

        Raises ApiError where there are no credentials.
        """
        settings = client.Configuration()
        try:
            if not kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            else:
                config.load_kube_config(kubeconfig or None, client_configuration=settings)  # type: ignore[no-untyped-call]
        except config.ConfigException as exc:
            raise ApiError(f"no credentials for an API server: {exc}", 0) from exc
        settings.retries = 0  # informers have a backoff of their own
        api = client.ApiClient(settings)
        api.rest_client.pool_manager.pool_classes_by_scheme = {"http": HTTPConnectionPool, "https": _Pool}
        return cls(api)

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """One JSON document."""
        return _document(self._open(path, query, read_seconds=30), f"GET {path}")

    def send(
        self, method: str, path: str, body: Mapping[str, Any], *, kind: str = "application/json", **query: str
    ) -> dict[str, Any]:
        """Write one document; the server's answer. `kind`: the body's media type, which says what a PATCH means."""
        answer = self._open(path, query, read_seconds=10, method=method, body=json.dumps(body), kind=kind)
        return _document(answer, f"{method} {path}")

    def pages(self, resource: Resource) -> Iterator[dict[str, Any]]:
        """A consistent list, page by page; the last page's metadata has the version to watch from."""
        query: dict[str, str | int] = {"limit": PAGE}
        if resource.field_selector:
            query["fieldSelector"] = resource.field_selector
        while True:
            page = self.get(resource.path, **query)
            yield page
            more = page.get("metadata", {}).get("continue")
            if not more:
                return
            query["continue"] = more

    def watch(self, resource: Resource, version: str, seconds: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Events from `version` on, until the server ends the watch after `seconds`."""
        query: dict[str, str | int] = {
            "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": seconds
        }  # fmt: skip
        if resource.field_selector:
            query["fieldSelector"] = resource.field_selector
        answer = self._open(resource.path, query, read_seconds=seconds + 30)
        try:
            for line in _lines(answer):
                event = json.loads(line)
                yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, OSError) as exc:
            raise ApiError(f"watch {resource.path}: {exc}", 0) from exc
        finally:
            answer.close()

    def _open(
        self, path: str, query: Mapping[str, str | int], read_seconds: float,
        *, method: str = "GET", body: str | None = None, kind: str = "",
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json"} | ({"Content-Type": kind} if kind else {})
        try:
            for auth in self._api.configuration.auth_settings().values():
                if auth["in"] == "header" and auth["value"]:
                    headers[auth["key"]] = auth["value"]
            answer: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
                method, url, headers=headers, body=body, preload_content=False, retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError, config.ConfigException) as exc:
            raise ApiError(f"{method} {path}: {exc}", 0) from exc
        if not 200 <= answer.status < 300:
            try:
                said = answer.read(2000).decode(errors="replace")
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                said = f"its answer broke off: {exc}"
            finally:
                answer.close()
            raise ApiError(f"{method} {path}: {answer.status} {_message(said)}", answer.status)
        return answer


class _Connection(HTTPSConnection):
    """Python 3.13 refuses clusters' CAs without key usage or key identifiers, which Kubernetes' own clients take.

    A context of its own for each connection: urllib3 loads the certificates into it, renewed ones too, and OpenSSL
    does not bear that in a context in which another thread is shaking hands.
    """

    def connect(self) -> None:
        self.ssl_context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
        self.ssl_context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        super().connect()


class _Pool(HTTPSConnectionPool):
    ConnectionCls = _Connection


def _document(answer: urllib3.BaseHTTPResponse, asked: str) -> dict[str, Any]:
    try:
        return dict(json.loads(answer.read()))
    except (urllib3.exceptions.HTTPError, OSError, ValueError, TypeError) as exc:
        raise ApiError(f"{asked}: {exc}", 0) from exc
    finally:
        answer.release_conn()


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Whole lines, as they come."""
    rest = b""
    for chunk in answer.stream(65536, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line)


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
