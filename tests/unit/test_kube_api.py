"""The way to the API server, without one."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from urllib3.exceptions import NewConnectionError

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
