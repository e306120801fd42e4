"""The last valid generation of policies, bindings and namespaces on disk: P17 holds for an agent that starts again.

The server has the newest generation only. Where that is invalid, a new agent could not know what its predecessor had
in force, and would let go of it: a mistyped policy or annotation and a restart would open what was closed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.log import event
from agent.sources.atomic import replace_file

_VERSION = 1


@dataclass(slots=True)
class LastValid:
    """One JSON file, replaced atomically. One thread."""

    path: Path
    _written: str = ""

    def read(self) -> dict[str, dict[str, Any]]:
        """Objects by uid. What cannot be read is logged and lost: the agent goes on with what the server has."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document["version"] != _VERSION:
                raise ValueError(f"version {document['version']!r}")
            return {str(obj["metadata"]["uid"]): dict(obj) for obj in document["objects"]}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
            event("last_valid.unreadable", level=logging.ERROR, path=str(self.path), why=repr(exc))
            return {}

    def write(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Where it differs from what was written last. Raises StateError."""
        text = json.dumps({"version": _VERSION, "objects": list(objects)}, ensure_ascii=False)
        if text == self._written:
            return
        replace_file(self.path, text)
        self._written = text
