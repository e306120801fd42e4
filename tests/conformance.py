"""The public NetworkPolicy cases (tests/data/conformance) as objects and snapshots, for both of their judges.

A case has steps; a step has actions, the state that they lead to, and the probes that are expected of it.
"""

from __future__ import annotations

import json
import lzma
import uuid
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.model.cluster import Address, Cluster, Settings
from agent.model.identity import PodUid
from agent.parse.cluster_objects import NAME_LABEL
from agent.parse.objects import parse_object
from agent.sources.store import Store

FILE = Path(__file__).parent / "data" / "conformance" / "networkpolicy-cases.json.xz"
CASES: list[dict[str, Any]] = json.loads(lzma.decompress(FILE.read_bytes()))
SETTINGS = Settings(network_policy=True, baseline=())
_UIDS = uuid.UUID("0c1f4a52-3a59-4f4c-9d5d-5f4a4cbb9a57")


def uid_of(pod: str) -> PodUid:
    return PodUid(str(uuid.uuid5(_UIDS, pod)))


def namespace(name: str, labels: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "labels": {**labels, NAME_LABEL: name, "dagwall.io/managed": "true"}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def pod(state: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: state[key] for key in ("namespace", "name", "labels")}
    uid = uid_of(f"{state['namespace']}/{state['name']}")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "uid": uid},
        "spec": {"containers": state["containers"], "nodeName": "here"},
        "status": {"phase": "Running", "podIPs": [{"ip": state["ip"]}]},
    }


def objects(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (namespace(name, each["labels"]) for name, each in state["namespaces"].items())
    yield from map(pod, state["pods"])
    yield from state["policies"]


def services(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One for each pod, with an address of its own and the pod behind it."""
    for number, each in enumerate(state["pods"]):
        ports = [port for container in each["containers"] for port in container["ports"]]
        metadata = {"namespace": each["namespace"], "name": each["name"]}
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "clusterIP": str(service_address(number)),
                "ports": [{"name": p["name"], "protocol": p["protocol"], "port": p["containerPort"]} for p in ports],
            },
        }
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": each["name"]}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [each["ip"]]}],
            "ports": [{"name": p["name"], "protocol": p["protocol"], "port": p["containerPort"]} for p in ports],
        }


def service_address(number: int) -> Address:
    return ip_address(f"10.96.0.{number + 1}")


def snapshot(state: dict[str, Any]) -> Cluster:
    store = Store()
    store.configure(SETTINGS)
    store.apply(map(parse_object, [*objects(state), *services(state)]), complete=True)
    return store.snapshot
