"""The way to the API server, without one."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from urllib3.exceptions import NewConnectionError

from agent.errors import ApiError, ApiStatus
from agent.sources import kube_api
from agent.sources.kube_api import KEEPALIVE, KubeApi
from tests.unit.fake_api import FakeApi, Request


def test_a_cluster_s_ca_may_lack_what_python_3_13_wants(tmp_path: Path) -> None:
    """Kubernetes' own clients take such CAs. tests/api has one; with Python 3.13 nothing else would pass there."""
    cluster = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": False}
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "it", "users": [{"name": "it", "user": {}}],
        "clusters": [{"name": "it", "cluster": cluster}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(document))
    pool = KubeApi.connect(str(file))._api.rest_client.pool_manager.connection_from_url(cluster["server"])
    contexts = []
    for _ in range(2):
        connection = pool._new_conn()
        with pytest.raises(NewConnectionError):
            connection.connect()
        contexts.append(connection.ssl_context)
    for context in contexts:
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert contexts[0] is not contexts[1], "threads must not load certificates into one"


@pytest.mark.parametrize("pod", [True, False])
def test_no_credentials_is_one_error_and_nothing_is_printed(
    pod: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(ApiError, match=r"no credentials for an API server: .*file"):
        KubeApi.connect()
    assert capfd.readouterr() == ("", "")


def kubeconfig(folder: Path, server: str, **user: str) -> Path:
    file = folder / "kubeconfig"
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": server}}], "users": [{"name": "it", "user": user}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip
    file.write_text(json.dumps(document))
    return file


def test_a_token_file_is_read_for_each_request(tmp_path: Path) -> None:
    seen: list[str] = []

    def note(request: Request) -> bool:
        seen.append(request.headers.get("Authorization", ""))
        return False

    with FakeApi() as server:
        server.lie = note
        token = tmp_path / "token"
        token.write_text("first\n")
        api = KubeApi.connect(str(kubeconfig(tmp_path, server.url, tokenFile="token")))
        api.get("/apis")
        token.write_text("second")
        api.get("/apis")
        token.unlink()
        with pytest.raises(ApiError, match="No such file"):
            api.get("/apis")
    assert seen == ["Bearer first", "Bearer second"]


def test_a_lost_route_ends_a_connection_soon(tmp_path: Path) -> None:
    with FakeApi() as server:
        pools = KubeApi.connect(str(kubeconfig(tmp_path, server.url)))._api.rest_client.pool_manager
        connection = pools.connection_from_url(server.url)._new_conn()
        connection.connect()
        for level, option, value in KEEPALIVE:
            assert connection.sock.getsockopt(level, option) == value
        connection.close()


def test_an_answer_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_api, "MAX_DOCUMENT", 1000)
    with FakeApi() as server:
        server.lie = lambda request: request.reply(b" " * 1001)
        with pytest.raises(ApiError, match="more than 1000 bytes"):
            KubeApi.connect(str(kubeconfig(tmp_path, server.url))).get("/apis")


TERMINATING = {
    "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "it is being terminated",
    "details": {
        "kind": "events", "name": "e",
        "causes": [{"reason": "NamespaceTerminating", "message": "m", "field": "metadata.namespace"}, {"reason": 7}],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "message", "why"),
    [
        (TERMINATING, "it is being terminated",
         ApiStatus("Forbidden", "events", "e", frozenset({"NamespaceTerminating", ""}))),
        ({"message": "no", "details": ["causes"]}, "no", ApiStatus()),
        ({"message": "no", "details": {"causes": "all"}, "reason": {}}, "no", ApiStatus()),
        ({"message": "x" * 9000, "reason": "Invalid"}, "x" * 2000, ApiStatus("Invalid")),
        ({"reason": "NotFound"}, '{"reason": "NotFound"}', ApiStatus()),
        (["message"], '["message"]', ApiStatus()),
        (b"<html>" + b"a" * 900, "<html>" + "a" * 194, ApiStatus()),
        (b"\xff", "\ufffd", ApiStatus()),
    ],
)  # fmt: skip
def test_the_reasons_of_a_refusal_are_values(body: object, message: str, why: ApiStatus, tmp_path: Path) -> None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with FakeApi() as server:
        server.lie = lambda request: request.reply(text, 403)
        with pytest.raises(ApiError) as refused:
            KubeApi.connect(str(kubeconfig(tmp_path, server.url))).get("/apis")
    assert str(refused.value) == f"GET /apis: 403 {message}"
    assert (refused.value.status, refused.value.why) == (403, why)
