"""Hubble's services on TCP: who has no certificate of the clients' CA gets no word, and renewed files are read."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from agent.errors import DagwallError
from agent.outputs.observer.certificates import TlsFiles
from agent.outputs.observer.server import HubbleServer
from tests.certificates import Authority
from tests.hubble_client import HubbleClient, as_json
from tests.unit.seen import flow
from tests.unit.test_observer_server import IN_CLUSTER, eventually

NAME = "n1.prod.hubble-grpc.cilium.io"
ANY_NODE = "*.prod.hubble-grpc.cilium.io"


@dataclass
class Remote:
    server: HubbleServer
    files: TlsFiles
    servers: Authority
    clients: Authority

    def client(
        self, authority: Authority | None, *, trusts: Authority | None = None, name: str = NAME
    ) -> HubbleClient:
        certificate, key = authority.pair("relay") if authority else (None, None)
        credentials = grpc.ssl_channel_credentials((trusts or self.servers).pem, key, certificate)
        return HubbleClient(f"127.0.0.1:{self.server.port}", credentials, name)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    servers, clients = Authority("servers"), Authority("clients")
    certificate, key = servers.files(tmp_path, ANY_NODE)
    (tmp_path / "ca.crt").write_bytes(clients.pem)
    files = TlsFiles(certificate, key, tmp_path / "ca.crt")
    server = HubbleServer("n1", socket=None, listen="127.0.0.1:0", tls=files, flows=10)
    server.start()
    server.report(IN_CLUSTER)
    server.flows([flow()])
    yield Remote(server, files, servers, clients)
    server.stop()


def refused(client: HubbleClient) -> bool:
    try:
        client.flows(timeout=3)
    except grpc.RpcError as exc:
        return exc.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined,no-any-return]
    finally:
        client.close()
    return False


def test_a_client_with_a_certificate_of_the_ca_is_answered(remote: Remote) -> None:
    client = remote.client(remote.clients)
    assert len(client.flows()) == 1
    (node,) = as_json(client.observer.GetNodes(client.messages.GetNodesRequest()))["nodes"]
    assert node["tls"] == {"enabled": True, "server_name": NAME}
    client.close()


def test_without_a_certificate_or_with_another_ca_s_there_is_no_answer(remote: Remote) -> None:
    assert refused(remote.client(None))
    assert refused(remote.client(Authority("strangers")))
    assert refused(remote.client(remote.servers)), "the CA of the servers is not that of the clients"
    plain = HubbleClient(f"127.0.0.1:{remote.server.port}")
    assert refused(plain)
    assert not refused(remote.client(remote.clients))


def test_a_client_refuses_what_is_not_this_cluster_s_server(remote: Remote) -> None:
    assert refused(remote.client(remote.clients, name="n1.test.hubble-grpc.cilium.io"))
    assert refused(remote.client(remote.clients, trusts=Authority("strangers")))


def test_relay_hears_of_all_nodes_and_of_their_coming_and_going(remote: Remote) -> None:
    client, port = remote.client(remote.clients), remote.server.port
    stream = client.peer.Notify(client.peers.NotifyRequest(), timeout=20)
    first = {
        (each["name"], each["address"], each["tls"]["server_name"])
        for each in (as_json(next(stream)) for _ in range(2))
    }
    assert first == {
        ("prod/n1", f"192.0.2.1:{port}", NAME),
        ("prod/n2.lan", f"[2001:db8::2]:{port}", "n2-lan.prod.hubble-grpc.cilium.io"),
    }
    cluster = IN_CLUSTER.cluster
    nodes = cluster.nodes.delete("n2.lan")
    remote.server.report(replace(IN_CLUSTER, cluster=replace(cluster, nodes=nodes)))
    gone = as_json(next(stream))
    assert (gone["name"], gone["type"]) == ("prod/n2.lan", "PEER_DELETED")
    client.close()


def test_renewed_files_are_read_without_a_restart(remote: Remote, tmp_path: Path) -> None:
    renewed, others = Authority("renewed"), Authority("other clients")
    certificate, key = renewed.files(tmp_path, ANY_NODE, prefix="new-")
    remote.files.certificate.write_bytes(certificate.read_bytes())
    assert not refused(remote.client(remote.clients)), "half of a renewal: the key is still the old one"
    remote.files.key.write_bytes(key.read_bytes())
    assert eventually(lambda: not refused(remote.client(remote.clients, trusts=renewed)))
    remote.files.client_ca.write_bytes(others.pem)
    assert eventually(lambda: not refused(remote.client(others, trusts=renewed)))
    assert refused(remote.client(remote.clients, trusts=renewed))
    remote.files.client_ca.unlink()
    assert not refused(remote.client(others, trusts=renewed)), "what was there stays"


def test_files_that_do_not_do_end_the_start_by_name(tmp_path: Path) -> None:
    servers = Authority("servers")
    certificate, key = servers.files(tmp_path, ANY_NODE)
    other, _ = servers.files(tmp_path, ANY_NODE, prefix="other-")
    ca = tmp_path / "ca.crt"
    ca.write_text("no certificate")

    def start(tls: TlsFiles | None) -> None:
        HubbleServer("n1", socket=None, listen="127.0.0.1:0", tls=tls, flows=10)

    with pytest.raises(DagwallError, match=f"{ca}: no certificate of a CA"):
        start(TlsFiles(certificate, key, ca))
    with pytest.raises(DagwallError, match=f"{other} and {key}: no certificate with its key"):
        start(TlsFiles(other, key, ca))
    with pytest.raises(DagwallError, match="nowhere"):
        start(TlsFiles(certificate, tmp_path / "nowhere", ca))
    with pytest.raises(DagwallError, match="needs a certificate, its key and the clients' CA"):
        start(None)


def test_a_port_that_is_taken_ends_the_start(remote: Remote) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DagwallError, match=f"serve hubble on {address}: cannot be bound"):
            HubbleServer("n1", socket=None, listen=address, tls=remote.files, flows=10)
