"""What dagwall does not read in manifests: misspelt labels of its own, unknown fields of NetworkPolicies. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.parse.cluster_objects import BASELINE_ANNOTATION, MANAGED_LABEL, POSTURE_ANNOTATION, STARTUP_TAINT
from agent.parse.fields import joined
from agent.parse.network_policies import NETWORK_POLICY
from agent.parse.objects import ObjectName, object_name

_OURS = "dagwall.io/"
_LABELS, _ANNOTATIONS = (MANAGED_LABEL,), (POSTURE_ANNOTATION, BASELINE_ANNOTATION)
_ELSEWHERE = (
    STARTUP_TAINT, "dagwall.io/task-creators", "dagwall.io/task-service-accounts", "dagwall.io/task-schedulers"
)  # fmt: skip
"""What deploy/ reads."""
_SELECTOR = ("matchLabels", "matchExpressions")
_PEER = ("ipBlock", "podSelector", "namespaceSelector")


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sentence about a field of an object."""

    name: ObjectName
    field: str
    text: str


def suspects(body: Any) -> Iterator[Suspect]:
    """Of one decoded object."""
    if not isinstance(body, dict):
        return
    name = object_name(body)
    metadata = body.get("metadata")
    for place, known, others in (
        ("labels", _LABELS, _ANNOTATIONS), ("annotations", _ANNOTATIONS, _LABELS)
    ):  # fmt: skip
        found = metadata.get(place) if isinstance(metadata, dict) else None
        for key in found if isinstance(found, dict) and name.kind == "Namespace" else ():
            text = _misspelt(str(key), place, known, others)
            if text:
                yield Suspect(name, f"metadata.{place}.{key}", text)
    if (body.get("apiVersion"), name.kind) == NETWORK_POLICY:
        yield from (Suspect(name, path, text) for path, text in _unknown(body.get("spec"), "spec", _SPEC))


def _misspelt(key: str, place: str, known: tuple[str, ...], others: tuple[str, ...]) -> str:
    if key in known or key in _ELSEWHERE:
        return ""
    if key in others:
        return f"is no {place.removesuffix('s')} of dagwall's, and means nothing here: it belongs among the others"
    near = difflib.get_close_matches(key.lower(), (*known, *others), n=1, cutoff=0.8)
    if not near and not key.startswith(_OURS):
        return ""
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"means nothing to dagwall; its {place} here: {joined(known)}{hint}"


_SPEC: dict[str, Any] = {
    "podSelector": dict.fromkeys(_SELECTOR),
    "policyTypes": None,
    **{
        key: {
            peers: {
                "ipBlock": {"cidr": None, "except": None},
                **{each: dict.fromkeys(_SELECTOR) for each in _PEER[1:]},
            },
            "ports": dict.fromkeys(("protocol", "port", "endPort")),
        }
        for key, peers in (("egress", "to"), ("ingress", "from"))
    },
}
"""Fields of a NetworkPolicy's spec, lists as their members; None: whatever stands there."""


def _unknown(value: Any, path: str, known: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if known is None:
        return
    for i, item in enumerate(value) if isinstance(value, list) else ():
        yield from _unknown(item, f"{path}[{i}]", known)
    for key, below in value.items() if isinstance(value, dict) else ():
        if key in known:
            yield from _unknown(below, f"{path}.{key}", known[key])
        else:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield (
                f"{path}.{key}",
                f"no NetworkPolicy has this field, so it has no effect; there are: {joined(known)}{hint}",
            )
