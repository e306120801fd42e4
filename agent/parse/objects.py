"""Kubernetes objects of the kinds that dagwall reads, decoded, in; model values out."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from agent.errors import InvalidObject
from agent.model.identity import Claim
from agent.parse.fields import Field
from agent.parse.object_kinds import BY_KIND, BY_VERSION_AND_KIND, Item, Reading
from agent.parse.policies import API_VERSION


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
    known = BY_KIND.get(texts[0])
    texts[1] = (texts[1] or "default") if known is None or known.namespaced else ""
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
    known = {name.lower() for name in BY_KIND}
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
    if key not in BY_VERSION_AND_KIND:
        raise _unknown(root, *key)
    return BY_VERSION_AND_KIND[key].parse(root, Reading(cluster, managed_namespaces, first_claim))


def _unknown(root: Field, version: str, kind: str) -> InvalidObject:
    allowed = ", ".join(f"{v}/{k}" for v, k in BY_VERSION_AND_KIND)
    return root.error(f"{version[:80]}/{kind[:80]} is no kind that dagwall reads; allowed: {allowed}")
