"""The way to the API server, without one."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from urllib3.exceptions import NewConnectionError

from agent.errors import ApiError
from agent.sources.kube_api import KubeApi


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
