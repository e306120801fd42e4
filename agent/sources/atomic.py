"""Small files of the state folder, replaced as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import StateError


def replace_file(path: Path, text: str) -> None:
    """On disk when it returns; a reader sees the old text or the new one. Raises StateError."""
    fresh = path.with_suffix(".new")
    try:
        private = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.fchmod(private, 0o600)
        with open(private, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as exc:
        raise StateError(f"{path}: {exc.strerror}") from exc
