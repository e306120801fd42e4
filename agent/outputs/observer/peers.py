"""The nodes that have an agent, as peer.Peer tells hubble-relay of them. Pure.

The agent runs on every node, so that these are the cluster's Nodes. Relay holds a node's certificate against the
server name, whose form is its own (cilium/pkg/hubble/peer): one certificate for `*.CLUSTER.hubble-grpc.cilium.io`
does for all agents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from agent.model.cluster import Cluster

_DOMAIN = "hubble-grpc.cilium.io"


@dataclass(frozen=True, slots=True)
class Serving:
    """Where the agents serve: all of them at one port, this one also on a socket. `port` 0: on the socket only."""

    node: str
    socket: str
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """A node: `CLUSTER/NODE`, where it serves, and the name in its certificate; "" without TLS."""

    name: str
    address: str
    server_name: str = ""

    def change(self, kind: str) -> dict[str, Any]:
        tls = {"tls": {"server_name": self.server_name}} if self.server_name else {}
        return {"name": self.name, "address": self.address, "type": kind, **tls}


def node_name(cluster: Cluster, node: str) -> str:
    return f"{cluster.settings.cluster}/{node}" if cluster.settings.cluster else node


def peers_of(cluster: Cluster, serving: Serving) -> dict[str, Peer]:
    """By name. This node is there also where no Node object says so."""
    if not serving.port:
        own = node_name(cluster, serving.node)
        return {own: Peer(own, f"unix://{serving.socket}")} if serving.socket else {}
    hosts = {name: str(node.addresses[0]) for name, node in cluster.nodes.items() if node.addresses}
    hosts.setdefault(serving.node, serving.host or "127.0.0.1")
    found = (_peer(cluster, name, host, serving.port) for name, host in sorted(hosts.items()))
    return {peer.name: peer for peer in found}


def _peer(cluster: Cluster, node: str, host: str, port: int) -> Peer:
    address = f"[{host}]:{port}" if ":" in host and ip_address(host).version == 6 else f"{host}:{port}"
    labels = (node.lower().replace(".", "-"), (cluster.settings.cluster or "default").lower().replace(".", "-"))
    return Peer(node_name(cluster, node), address, ".".join((*labels, _DOMAIN)))


def changes(known: Mapping[str, Peer], now: Mapping[str, Peer]) -> Iterator[dict[str, Any]]:
    """ChangeNotifications from one to the other."""
    for name, peer in known.items():
        if name not in now:
            yield peer.change("PEER_DELETED")
    for name, peer in now.items():
        if name not in known:
            yield peer.change("PEER_ADDED")
        elif known[name] != peer:
            yield peer.change("PEER_UPDATED")
