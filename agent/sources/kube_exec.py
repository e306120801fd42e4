"""What `kubectl exec` does: a command in a container; its output comes from the kubelet through the API server.

Source: kubernetes client, kubernetes/stream/ws_client.py.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import yaml
from kubernetes import client, config
from kubernetes.stream import ws_client
from websocket import WebSocketBadStatusException, WebSocketException

from agent.errors import ApiError
from agent.sources.kube_api import KubeApi, refusal

PROTOCOL = "v4.channel.k8s.io"
"""What every server and kubelet speaks, without a translation between them; v5 adds the end of the input."""
MAX_OUTPUT = 64 * 1024 * 1024
"""Bytes of one answer."""
_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Container:
    namespace: str
    pod: str
    name: str


class Channels(Protocol):
    """What is used of the kubernetes client's WSClient."""

    def is_open(self) -> bool: ...
    def update(self, timeout: float) -> None: ...
    def read_channel(self, channel: int) -> bytes | str: ...
    def close(self) -> None: ...


def lines(api: KubeApi, container: Container, command: Sequence[str], seconds: float | None) -> Iterator[bytes]:
    """Lines of its standard output, as they come, within so many seconds. ApiError where it does not end well: by an
    exit code it does where it has said nothing on standard error.
    """
    asked = f"exec in {container.namespace}/{container.pod}"
    try:
        channels = _open(api, container, command)
    except (client.ApiException, config.ConfigException, OSError) as exc:
        raise _refused(asked, exc) from exc
    try:
        yield from _lines(channels, None if seconds is None else time.monotonic() + seconds)
    except (OSError, ValueError, WebSocketException) as exc:
        raise ApiError(f"{asked}: {exc}", 0) from exc
    finally:
        with contextlib.suppress(Exception):  # the other end may have gone in any way
            channels.close()


def _refused(asked: str, exc: Exception) -> ApiError:
    """The client wraps what the server said at the handshake into a text with all headers."""
    cause = exc.__context__
    if isinstance(cause, WebSocketBadStatusException):
        message, why = refusal(getattr(cause, "resp_body", None) or b"")
        said = message or str(cause).partition(" -+-+-")[0]  # an older websocket-client has no body
        return ApiError(f"{asked}: {cause.status_code} {said}", cause.status_code, why)
    return ApiError(f"{asked}: {getattr(exc, 'reason', None) or exc}", 0)


def _open(api: KubeApi, container: Container, command: Sequence[str]) -> Channels:
    path = f"/api/v1/namespaces/{container.namespace}/pods/{container.pod}/exec"
    query = [("command", word) for word in command]
    query += [
        ("container", container.name),
        ("stdout", "true"),
        ("stderr", "true"),
        ("stdin", "false"),
        ("tty", "false"),
    ]
    headers = api.credentials() | {"sec-websocket-protocol": PROTOCOL}
    opened: Channels = ws_client.websocket_call(  # type: ignore[no-untyped-call]
        api.settings, "GET", f"{api.host}{path}", query_params=query, headers=headers,
        _preload_content=False, capture_all=False, binary=True,
    )  # fmt: skip
    return opened


def _lines(channels: Channels, deadline: float | None) -> Iterator[bytes]:
    """Raises ValueError where the command failed, or says too much; TimeoutError."""
    rest, size, said = b"", 0, b""
    while channels.is_open():
        left = _WAIT_SECONDS if deadline is None else min(_WAIT_SECONDS, deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("no answer in time")
        channels.update(timeout=left)
        said = (said + _read(channels, ws_client.STDERR_CHANNEL))[-2000:]
        chunk = _read(channels, ws_client.STDOUT_CHANNEL)
        size += len(chunk)
        if deadline is not None and size > MAX_OUTPUT:
            raise ValueError(f"the answer has more than {MAX_OUTPUT} bytes")
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest
    _check(yaml.safe_load(_read(channels, ws_client.ERROR_CHANNEL) or b"{}"), said)


def _read(channels: Channels, channel: int) -> bytes:
    """Of a channel on which nothing came, older clients (29) have an empty text."""
    said = channels.read_channel(channel)
    return said if isinstance(said, bytes) else said.encode()


def _check(status: Any, said: bytes) -> None:
    """The Status that ends a stream: Success, or why the command failed."""
    found = status if isinstance(status, dict) else {}
    if found.get("status") == "Success":
        return
    words = said.decode("utf-8", "replace").strip().splitlines()
    if not words and found.get("reason") == "NonZeroExitCode":
        return
    raise ValueError(words[-1] if words else str(found.get("message") or "the connection broke off"))
