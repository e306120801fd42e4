"""The API server over HTTP: pages of lists, lines of watches, single writes, by the kubernetes client's credentials.

Typed models are not used: they cost more time and memory than all the rest. Errors of the server and the network are
ApiError, and so is an answer of another shape than the API's, whatever its status: between agent and server may be
proxies that answer for it. Answers are bounded in bytes and in time.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from agent.errors import ApiError, ApiSilentError, ApiStatus
from agent.sources import deep_json
from agent.sources.reflector import Page, Resource, number_of
from agent.sources.token_file import TokenFile

PAGE = 200
"""Objects in one answer of a list: bounds the memory of decoding, 10 to 30 KB of JSON for a pod."""

CONNECT_SECONDS = 5.0
DOCUMENT_SECONDS = 60.0
"""For the whole of one answer, however it drips."""
MAX_DOCUMENT, MAX_LINE = 256 * 1024 * 1024, 16 * 1024 * 1024
"""Bytes of an answer, and of one event of a watch: etcd refuses objects of more than 1.5 MB."""
MAX_REFUSAL, MAX_MESSAGE = 64 * 1024, 2000
"""Bytes of a refusal that are read, and characters of its message that are kept."""
SILENT_SECONDS = 100.0
"""A server sends a bookmark about once a minute (75 s at most) where nothing else happens."""
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15), (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3), (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)  # fmt: skip
"""A route that is lost ends a connection within 30 s (tcp(7))."""
METADATA_ONLY = "PartialObjectMetadata"
"""Kind of a resource whose list has no more of its objects (kubernetes.io, "Metadata-only fetches")."""
_METADATA = f"application/json;as={METADATA_ONLY}List;g=meta.k8s.io;v=v1"


class KubeApi:
    """One API server. Thread-safe; each watch holds a connection of its own."""

    def __init__(self, api: client.ApiClient, token: TokenFile | None = None) -> None:
        self._api, self._token = api, token
        self.host = str(api.configuration.host).rstrip("/")

    @classmethod
    def connect(cls, kubeconfig: str = "", context: str = "") -> KubeApi:
        """By a kubeconfig file, else as a pod, else by the default kubeconfig. Does not talk to the server yet.

        context: of the kubeconfig; "" for its current one. Raises ApiError where there are no credentials.
        """
        settings = client.Configuration()
        in_cluster = not kubeconfig and not context and "KUBERNETES_SERVICE_HOST" in os.environ
        try:
            if in_cluster:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            else:
                config.load_kube_config(  # type: ignore[no-untyped-call]
                    kubeconfig or None, context=context or None, client_configuration=settings
                )
        except config.ConfigException as exc:
            raise ApiError(f"no credentials for an API server: {exc}", 0) from exc
        settings.retries = 0  # informers have a backoff of their own
        api = client.ApiClient(settings)
        pools = api.rest_client.pool_manager
        pools.pool_classes_by_scheme = {"http": HTTPConnectionPool, "https": _Pool}
        pools.connection_pool_kw["socket_options"] = [*HTTPConnection.default_socket_options, *KEEPALIVE]
        return cls(api, None if in_cluster else TokenFile.of(kubeconfig, context))

    @property
    def settings(self) -> client.Configuration:
        found: client.Configuration = self._api.configuration
        return found

    def credentials(self) -> dict[str, str]:
        """Headers of a request, as they are now. Raises OSError, ConfigException."""
        of_all = self._api.configuration.auth_settings().values()
        headers = {each["key"]: each["value"] for each in of_all if each["in"] == "header" and each["value"]}
        return headers | ({"authorization": self._token.bearer()} if self._token is not None else {})

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """One JSON document."""
        return _document(self._open(path, query, read_seconds=30), f"GET {path}")

    def get_metadata(self, path: str, **query: str | int) -> dict[str, Any]:
        """Of a list only its objects' metadata; the rest does not leave the server."""
        return _document(self._open(path, query, read_seconds=30, accept=_METADATA), f"GET {path}")

    def send(
        self, method: str, path: str, body: Mapping[str, Any], *, kind: str = "application/json", **query: str
    ) -> dict[str, Any]:
        """Write one document; the server's answer. `kind`: the body's media type: how a PATCH is read."""
        answer = self._open(path, query, read_seconds=10, method=method, body=json.dumps(body), kind=kind)
        return _document(answer, f"{method} {path}")

    def pages(self, resource: Resource) -> Iterator[Page]:
        """A consistent list, page by page; the last page's version is the one to watch from."""
        get = self.get_metadata if resource.kind == METADATA_ONLY else self.get
        query = self._query(resource, limit=PAGE)
        while True:
            document = get(resource.path, **query)
            yield _page(document, resource)
            more = document["metadata"].get("continue")
            if not more:
                return
            query["continue"] = str(more)

    def serves(self, resource: Resource) -> bool:
        """By the server's own documents about what it serves. Raises ApiError where they cannot be had."""
        group, _, version = resource.api_version.rpartition("/")
        groups = _members(self.get("/apis"), "APIGroupList", "groups")
        if not groups:
            raise ApiError("GET /apis: no groups at all", 0)
        if version not in _versions(groups, group):
            return False
        path = f"/apis/{resource.api_version}"
        return resource.plural in {r.get("name") for r in _members(self.get(path), "APIResourceList", "resources")}

    def versions(self, group: str) -> frozenset[str]:
        """Of an API group, as far as the server serves it. Raises ApiError."""
        return _versions(_members(self.get("/apis"), "APIGroupList", "groups"), group)

    def watch(self, resource: Resource, version: str, seconds: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Events from `version` on, until the server ends the watch after `seconds`. ApiSilentError: not one word."""
        query = self._query(
            resource, watch="true", resourceVersion=version, allowWatchBookmarks="true", timeoutSeconds=seconds
        )
        try:
            answer = self._open(resource.path, query, read_seconds=SILENT_SECONDS)
        except ApiError as exc:
            if isinstance(exc.__cause__, urllib3.exceptions.ReadTimeoutError):
                raise ApiSilentError(str(exc), 0) from exc
            raise
        try:
            for line in _lines(answer):
                yield _event(deep_json.loads(line), resource)
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as exc:
            raise ApiSilentError(f"watch {resource.path}: not a word for {SILENT_SECONDS:.0f} s", 0) from exc
        except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError, OSError) as exc:
            raise ApiError(f"watch {resource.path}: {exc}", 0) from exc
        finally:
            answer.close()

    def _query(self, resource: Resource, **query: str | int) -> dict[str, str | int]:
        return query | ({"fieldSelector": resource.field_selector} if resource.field_selector else {})

    def _open(
        self, path: str, query: Mapping[str, str | int], read_seconds: float,
        *, method: str = "GET", body: str | None = None, kind: str = "", accept: str = "application/json",
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept} | ({"Content-Type": kind} if kind else {})
        try:
            headers |= self.credentials()
            answer: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
                method, url, headers=headers, body=body, preload_content=False, retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError, config.ConfigException) as exc:
            raise ApiError(f"{method} {path}: {exc}", 0) from exc
        if not 200 <= answer.status < 300:
            try:
                message, why = refusal(answer.read(MAX_REFUSAL))
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                message, why = f"its answer broke off: {exc}", ApiStatus()
            finally:
                answer.close()
            raise ApiError(f"{method} {path}: {answer.status} {message}", answer.status, why)
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
        found = deep_json.loads(b"".join(_bounded(answer, time.monotonic() + DOCUMENT_SECONDS)))
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
        answer.close()
        raise ApiError(f"{asked}: {exc}", 0) from exc
    finally:
        answer.release_conn()
    if not isinstance(found, dict):
        raise ApiError(f"{asked}: the answer is no object", 0)
    return found


def _bounded(answer: urllib3.BaseHTTPResponse, deadline: float) -> Iterator[bytes]:
    size = 0
    while chunk := _some(answer):
        size += len(chunk)
        if size > MAX_DOCUMENT:
            raise ValueError(f"has more than {MAX_DOCUMENT} bytes")
        if time.monotonic() > deadline:
            raise ValueError(f"does not end within {DOCUMENT_SECONDS:.0f} s")
        yield chunk


def _some(answer: urllib3.BaseHTTPResponse) -> bytes:
    """What is there, as soon as there is anything; b"" at the end."""
    read: bytes = answer.read1(65536)
    return read


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Whole lines, as they come. TimeoutError: none for SILENT_SECONDS, though bytes may drip."""
    rest, heard_at = bytearray(), time.monotonic()
    while chunk := _some(answer):
        rest += chunk
        if b"\n" in chunk:
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            yield from (line for line in lines if line)
            heard_at = time.monotonic()
        elif len(rest) > MAX_LINE:
            raise ValueError(f"an event of more than {MAX_LINE} bytes")
        elif time.monotonic() > heard_at + SILENT_SECONDS:
            raise TimeoutError


def _page(document: dict[str, Any], resource: Resource) -> Page:
    """Of the kind that was asked for; anything else did not come from an API server."""
    metadata, items = document.get("metadata"), document.get("items") or []
    version = str(metadata.get("resourceVersion") or "") if isinstance(metadata, dict) else ""
    if document.get("kind") != f"{resource.kind}List" or not number_of(version) or not _all_objects(items):
        raise ApiError(f"GET {resource.path}: the answer is no {resource.kind}List", 0)
    return items, version


def _event(line: Any, resource: Resource) -> tuple[str, Mapping[str, Any]]:
    kind, obj = str(line["type"]), line["object"]
    if not isinstance(obj, dict) or (kind != "ERROR" and obj.get("kind") != resource.kind):
        raise ValueError(f"an event that is not about {resource.kind}")
    return kind, obj


def _members(document: dict[str, Any], kind: str, key: str) -> list[dict[str, Any]]:
    members = document.get(key)
    if document.get("kind") != kind or not _all_objects(members):
        raise ApiError(f"the answer is no {kind}", 0)
    return list(members or ())


def _versions(groups: list[dict[str, Any]], group: str) -> frozenset[str]:
    """Of a group; none where it is not there."""
    found = [each.get("versions") for each in groups if each.get("name") == group]
    if not all(map(_all_objects, found)):
        raise ApiError(f"GET /apis: versions of {group} are no list of objects", 0)
    return frozenset(str(each.get("version")) for versions in found for each in versions or ())


def _all_objects(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def refusal(body: bytes) -> tuple[str, ApiStatus]:
    """The message of a refusal, and its reasons where it is a Status; of anything else, its beginning as text."""
    text = body.decode(errors="replace")
    try:
        status = json.loads(text)
        message = str(status["message"])[:MAX_MESSAGE]
    except (ValueError, KeyError, TypeError, RecursionError):
        return text[:200], ApiStatus()
    details = _object(status.get("details"))
    causes = details.get("causes")
    found = frozenset(_word(cause, "reason") for cause in causes or ()) if _all_objects(causes) else frozenset()
    return message, ApiStatus(_word(status, "reason"), _word(details, "kind"), _word(details, "name"), found)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(of: Mapping[str, Any], name: str) -> str:
    value = of.get(name)
    return value if isinstance(value, str) else ""
