"""What is kept of an object so that it can be read again as it was: its content, and which one it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_METADATA = ("name", "namespace", "uid", "generation")
_OURS = "dagwall.io/"


def essence(obj: Mapping[str, Any]) -> dict[str, Any]:
    """A namespace's content is its labels and our annotations, anything else's its spec."""
    metadata = obj["metadata"]
    kept = {key: metadata[key] for key in _METADATA if key in metadata}
    said: dict[str, Any] = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": kept}
    if obj["kind"] != "Namespace":
        return said | {"spec": obj.get("spec")}
    annotations = metadata.get("annotations") or {}
    kept["labels"] = dict(metadata.get("labels") or {})
    kept["annotations"] = {key: value for key, value in annotations.items() if str(key).startswith(_OURS)}
    return said
