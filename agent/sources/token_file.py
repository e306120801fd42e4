"""The token that a kubeconfig names by a file, read anew for each request: whoever rotates it writes the file only.

The kubernetes client reads it once. As client-go does, `tokenFile` goes before `token`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes.config import kube_config


@dataclass(frozen=True, slots=True)
class TokenFile:
    """One file."""

    path: Path

    @classmethod
    def of(cls, kubeconfig: str, context: str = "") -> TokenFile | None:
        """Of the user of this context, "" for the current one; None where it has none, or nothing can be read."""
        files = (kubeconfig or kube_config.KUBE_CONFIG_DEFAULT_LOCATION).split(os.pathsep)
        documents = [(Path(file).expanduser().parent, _read(file)) for file in files if file]
        current = (str(d["current-context"]) for _, d in documents if d.get("current-context"))
        context = context or next(current, "")
        user = next((c.get("user") for _, d in documents for c in _named(d, "contexts", context, "context")), "")
        for folder, document in documents:
            for found in _named(document, "users", str(user), "user"):
                if found.get("tokenFile"):
                    return cls(folder / str(found["tokenFile"]))
        return None

    def bearer(self) -> str:
        """The header's value. Raises OSError."""
        return f"Bearer {self.path.read_text(encoding='ascii').strip()}"


def _read(file: str) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return document if isinstance(document, dict) else {}


def _named(document: Mapping[str, Any], table: str, name: str, key: str) -> Iterable[Mapping[str, Any]]:
    for entry in document.get(table) or ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(key), dict):
            yield entry[key]
