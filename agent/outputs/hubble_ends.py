"""The two ends of a flow as Hubble's Endpoint: numbers, labels, pods. Pure.

Hubble's identity numbers are the same on every node, and ours are not (I6): a pod's is made of its identity's text,
in the range that Hubble's readers take for pods of a cluster (cilium/pkg/identity, numericidentity.go: the highest
eight bits are the scope, and 1 << 24 stands for CIDRs of one node). The agent's own number stands in `extensions`.
"""

from __future__ import annotations

import hashlib
from typing import Any

from agent.model.flow import EndpointFacts, PeerKind, PeerName, Place
from agent.model.identity import Identity

_FIRST_OF_PODS, _AFTER_PODS = 1 << 16, 1 << 24
_UNKNOWN, _WORLD, _UNMANAGED = 0, 2, 3
_PLACES = {
    Place.THIS_NODE: (1, "reserved:host"),
    Place.OTHER_NODE: (6, "reserved:remote-node"),
    Place.API_SERVER: (7, "reserved:kube-apiserver"),
}


def identity_number(identity: Identity) -> int:
    """The same for equal identities, whichever node says it."""
    text = f"{identity.cluster}/{identity}/{identity.kind.value}".encode("utf-8", "surrogatepass")
    digest = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return _FIRST_OF_PODS + digest % (_AFTER_PODS - _FIRST_OF_PODS)


def own_end(facts: EndpointFacts) -> dict[str, Any]:
    """Ours. `ID` is the endpoint's slot: as in Cilium, a number of this node that another pod has later."""
    if not facts.namespace:
        return {"identity": _UNKNOWN, "labels": ["reserved:unknown"]}
    return {**({"ID": facts.slot} if facts.slot else {}), **_pod(facts.identity, facts.namespace, facts.pod)}


def peer_end(peer: PeerName, version: int) -> dict[str, Any]:
    """The peer's: the pod that has the address, else the place, else what the name says."""
    if peer.place in _PLACES:
        number, label = _PLACES[peer.place]
        return {"identity": number, "labels": [label]}
    if peer.identity is not None:
        return _pod(peer.identity, peer.identity.namespace, peer.pod)
    if peer.kind is PeerKind.SERVICE:
        return {"namespace": peer.name.partition("/")[0], "labels": ["reserved:unmanaged"], "identity": _UNMANAGED}
    if peer.kind is PeerKind.UNKNOWN:
        return {"identity": _UNKNOWN, "labels": ["reserved:unknown"]}
    if peer.kind is PeerKind.CIDR:
        return {"identity": _WORLD, "labels": ["reserved:world", f"cidr:{peer.name}"]}
    if peer.kind is PeerKind.FQDN:
        return {"identity": _WORLD, "labels": ["reserved:world", f"fqdn:{peer.name}"]}
    if peer.name == "node":
        return {"identity": 1, "labels": ["reserved:host"]}
    return {"identity": _WORLD, "labels": ["reserved:world", f"reserved:world-ipv{version}"]}


def _pod(identity: Identity, namespace: str, pod: str) -> dict[str, Any]:
    """Labels are those that Hubble's users filter by; the ids are not cut as Airflow's own labels are."""
    labels = [f"k8s:io.kubernetes.pod.namespace={namespace}"]
    if identity.cluster:
        labels.append(f"k8s:io.cilium.k8s.policy.cluster={identity.cluster}")
    labels.append(f"k8s:io.cilium.k8s.policy.serviceaccount={identity.service_account}")
    ids = (("dag_id", identity.dag_id), ("task_id", identity.task_id))
    labels += [f"k8s:{key}={value}" for key, value in ids if value]
    workload = [{"name": identity.dag_id, "kind": "DAG"}] if identity.dag_id else []
    return {
        "identity": identity_number(identity),
        "cluster_name": identity.cluster,
        "namespace": namespace,
        "pod_name": pod,
        "labels": labels,
        **({"workloads": workload} if workload else {}),
    }
