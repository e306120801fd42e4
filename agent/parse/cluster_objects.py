"""Namespaces, nodes and service accounts: a decoded object in, a value of model.cluster out."""

from __future__ import annotations

from agent.model.cluster import Namespace, Node, ServiceAccount
from agent.model.policy import DefaultPosture, Entity
from agent.parse.addresses import parse_addresses, parse_network
from agent.parse.claims import parse_annotations, parse_labels, parse_name
from agent.parse.external import of_account
from agent.parse.fields import Field, joined

MANAGED_LABEL = "dagwall.io/managed"
POSTURE_ANNOTATION = "dagwall.io/default-posture"
BASELINE_ANNOTATION = "dagwall.io/baseline"
STARTUP_TAINT = "dagwall.io/agent-not-ready"
NAME_LABEL = "kubernetes.io/metadata.name"  # set by every API server since 1.21; policies count on it


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
        uid=metadata.child("uid").string(""),
        labels=tuple(sorted({NAME_LABEL: name, **labels}.items())),
        managed=label == "true" or name in managed_namespaces,
        default_posture=None if posture.absent else posture.choice(DefaultPosture),
        baseline=_baseline(annotations.child(BASELINE_ANNOTATION)),
        terminating=not metadata.child("deletionTimestamp").absent,
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


def parse_service_account(root: Field) -> ServiceAccount:
    metadata = root.child("metadata")
    return ServiceAccount(
        namespace=parse_name(metadata.child("namespace"), "default"),
        name=parse_name(metadata.child("name")),
        external=of_account(metadata.child("annotations")),
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
