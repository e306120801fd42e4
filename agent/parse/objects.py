"""Kubernetes objects of the kinds that dagwall reads, decoded, in; model values out."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import NamedTuple

from agent.errors import InvalidObject
from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import EndpointSlice, Namespace, Node, Pod, Service, ServiceAccountName
from agent.model.identity import Claim
from agent.model.network_policy import NetworkPolicy
from agent.model.policy import DefaultPosture, Entity, Policy
from agent.parse.addresses import parse_addresses, parse_network
from agent.parse.bindings import BINDING_KIND, parse_binding
from agent.parse.claims import parse_annotations, parse_labels, parse_name
from agent.parse.fields import Field, joined
from agent.parse.network_policies import NETWORK_POLICY, parse_network_policy
from agent.parse.pods import parse_pod
from agent.parse.policies import API_VERSION, KINDS, parse_policy
from agent.parse.services import parse_endpoint_slice, parse_service

Item = (
    Pod
    | Namespace
    | Service
    | EndpointSlice
    | ServiceAccountName
    | Node
    | Policy
    | NetworkPolicy
    | TaskIdentityBinding
)

MANAGED_LABEL = "dagwall.io/managed"
POSTURE_ANNOTATION = "dagwall.io/default-posture"
BASELINE_ANNOTATION = "dagwall.io/baseline"
STARTUP_TAINT = "dagwall.io/agent-not-ready"
NAME_LABEL = "kubernetes.io/metadata.name"  # set by every API server since 1.21; policies count on it


class ObjectName(NamedTuple):
    """What an object is called, before anything else about it is known to be valid."""

    kind: str
    namespace: str  # "" for kinds without one
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


def object_name(obj: object) -> ObjectName:
    """The name of a decoded object of any kind; absent or broken parts are empty. Never raises."""
    body = obj if isinstance(obj, dict) else {}
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    kind, namespace, name = body.get("kind"), metadata.get("namespace"), metadata.get("name")
    texts = [value if isinstance(value, str) else "" for value in (kind, namespace, name)]
    if texts[0] not in _CLUSTER_SCOPED:
        texts[1] = texts[1] or "default"
    else:
        texts[1] = ""
    return ObjectName(*(text[:300] for text in texts))


def is_foreign(obj: object) -> bool:
    """Of a kind that is none of dagwall's business, such as v1/Endpoints in a folder of all that a chart makes.

    Not foreign are our own group, another version of a kind that is read, and what looks like a misspelt one.
    """
    body = obj if isinstance(obj, dict) else {}
    version, kind = body.get("apiVersion"), body.get("kind")
    if not (isinstance(version, str) and isinstance(kind, str) and version and kind):
        return False
    group = version.rpartition("/")[0]
    if group == API_VERSION.partition("/")[0]:
        return False
    known = {name.lower() for name in ("Pod", "Namespace", *(name for _, name in _PARSERS))}
    if kind.lower() in known:  # serving.knative.dev/v1 Service is foreign, extensions/v1beta1 NetworkPolicy is old
        return "." in group and not group.endswith("k8s.io")
    return not difflib.get_close_matches(kind.lower(), known, n=1, cutoff=0.85)


def parse_object(
    obj: object,
    *,
    first_claim: Claim | None = None,
    cluster: str = "default",
    managed_namespaces: frozenset[str] = frozenset(),
) -> Item:
    """One object of any kind that dagwall reads, by its apiVersion and kind.

    `first_claim` is what was read at the first sight of a pod's uid; it stays in force (I2).
    Raises InvalidObject that names the object, the field and what is allowed.
    """
    name = object_name(obj)
    root = Field(str(name) or "object", "", obj)
    if not isinstance(obj, dict):
        raise root.error("must be an object with apiVersion and kind")
    key = (root.child("apiVersion").nonempty(), root.child("kind").nonempty())
    if key == ("v1", "Pod"):
        return parse_pod(root, cluster=cluster, first_claim=first_claim)
    if key == ("v1", "Namespace"):
        return parse_namespace(root, managed_namespaces)
    if key not in _PARSERS:
        raise _unknown(root, *key)
    return _PARSERS[key](root)


def parse_namespace(root: Field, managed_namespaces: frozenset[str]) -> Namespace:
    """A namespace: managed by its label or by name; annotations of dagwall may set posture and baseline (P5, P6)."""
    metadata = root.child("metadata")
    name = parse_name(metadata.child("name"))
    labels = dict(parse_labels(metadata.child("labels")))
    label = labels.get(MANAGED_LABEL, "false")
    if label not in ("true", "false"):
        raise metadata.child("labels").child(MANAGED_LABEL).error(f"must be 'true' or 'false', not {label!r}")
    annotations = metadata.child("annotations")
    parse_annotations(annotations)
    posture = annotations.child(POSTURE_ANNOTATION)
    return Namespace(
        name=name,
        labels=tuple(sorted({NAME_LABEL: name, **labels}.items())),
        managed=label == "true" or name in managed_namespaces,
        default_posture=None if posture.absent else posture.choice(DefaultPosture),
        baseline=_baseline(annotations.child(BASELINE_ANNOTATION)),
        terminating=not metadata.child("deletionTimestamp").absent,
        uid=metadata.child("uid").string(""),
    )


def _baseline(field: Field) -> tuple[Entity, ...] | None:
    if field.absent:
        return None
    words = [word.strip() for word in field.string().split(",") if word.strip()]
    known = {entity.value: entity for entity in Entity}
    for word in words:
        if word not in known:
            raise field.error(f"must be entities separated by commas, of {joined(known)}, not {word[:60]!r}")
    return tuple(dict.fromkeys(known[word] for word in words))


def parse_service_account(root: Field) -> ServiceAccountName:
    metadata = root.child("metadata")
    return ServiceAccountName(
        namespace=parse_name(metadata.child("namespace"), "default"),
        name=parse_name(metadata.child("name")),
    )


def parse_node(root: Field) -> Node:
    """A node: its internal and external addresses, the ranges that its pods get theirs from, the startup taint."""
    spec = root.child("spec")
    addresses = [
        entry.child("address")
        for entry in root.child("status").child("addresses").optional_items()
        if entry.child("type").string() in ("InternalIP", "ExternalIP")
    ]
    ranges = [*spec.child("podCIDRs").optional_items(), spec.child("podCIDR")]
    return Node(
        name=parse_name(root.child("metadata").child("name")),
        addresses=parse_addresses(addresses),
        pod_ranges=tuple(dict.fromkeys(parse_network(field) for field in ranges if field.value)),
        tainted=any(taint.child("key").value == STARTUP_TAINT for taint in spec.child("taints").optional_items()),
    )


def _unknown(root: Field, version: str, kind: str) -> InvalidObject:
    known = [("v1", "Pod"), ("v1", "Namespace"), *_PARSERS]
    allowed = ", ".join(f"{v}/{k}" for v, k in known)
    return root.error(f"{version[:80]}/{kind[:80]} is no kind that dagwall reads; allowed: {allowed}")


_CLUSTER_SCOPED = frozenset({"Namespace", "Node", "ClusterTaskNetworkPolicy", BINDING_KIND})
_PARSERS: dict[tuple[str, str], Callable[[Field], Item]] = {
    ("v1", "Service"): parse_service,
    ("discovery.k8s.io/v1", "EndpointSlice"): parse_endpoint_slice,
    ("discovery.k8s.io/v1beta1", "EndpointSlice"): parse_endpoint_slice,
    ("v1", "ServiceAccount"): parse_service_account,
    ("v1", "Node"): parse_node,
    **{(API_VERSION, kind): parse_policy for kind in KINDS},
    (API_VERSION, BINDING_KIND): parse_binding,
    NETWORK_POLICY: parse_network_policy,
}
