"""The state folder: one agent at a time, identity numbers and frozen claims across restarts (I2, I6, L3)."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import StateError
from agent.model.identity import Attestation, Claim, Identity, IdentityNumber, Kind, PodUid

_VERSION = 1


@dataclass(slots=True)
class State:
    """What is remembered. `complete`: the sources have listed everything at least once on this node."""

    numbers: dict[Identity, IdentityNumber] = field(default_factory=dict)
    claims: dict[PodUid, Claim] = field(default_factory=dict)
    namespaces: dict[str, bool] = field(default_factory=dict)  # is it managed
    complete: bool = False


class StateFolder:
    """Held open for the agent's life; the lock goes with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StateError(f"{folder}: another agent owns this state folder") from exc
        except OSError as exc:
            raise StateError(f"{folder}: {exc.strerror}") from exc
        self._file = folder / "state.json"

    def read(self) -> State:
        """What was written last; empty where there is nothing. A file that cannot be read is an error."""
        try:
            document = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return State()
        except (OSError, ValueError) as exc:
            raise StateError(f"{self._file}: {exc}") from exc
        version = document.get("version") if isinstance(document, dict) else None
        if version != _VERSION:
            raise StateError(f"{self._file}: written by another version of dagwall ({version!r})")
        try:
            return _state(document)
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise StateError(f"{self._file}: damaged: {exc!r}") from exc

    def write(self, state: State) -> None:
        """Replaces the file atomically."""
        document = {
            "version": _VERSION,
            "complete": state.complete,
            "namespaces": state.namespaces,
            "numbers": [[asdict(identity), number] for identity, number in state.numbers.items()],
            "claims": {uid: asdict(claim) for uid, claim in state.claims.items()},
        }
        fresh = self._file.with_suffix(".new")
        try:
            with open(fresh, "w", encoding="utf-8") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._file)
        except OSError as exc:
            raise StateError(f"{self._file}: {exc.strerror}") from exc

    def close(self) -> None:
        os.close(self._lock)


def _state(document: dict[str, Any]) -> State:
    return State(
        numbers={_identity(i): IdentityNumber(n) for i, n in document["numbers"]},
        claims={PodUid(uid): _claim(c) for uid, c in document["claims"].items()},
        namespaces=dict(document["namespaces"]),
        complete=document["complete"],
    )


def _identity(fields: dict[str, Any]) -> Identity:
    return Identity(**fields | {"kind": Kind(fields["kind"])})


def _claim(fields: dict[str, Any]) -> Claim:
    return Claim(
        **fields
        | {
            "identity": _identity(fields["identity"]),
            "labels": tuple((k, v) for k, v in fields["labels"]),
            "attestation": Attestation(fields["attestation"]),
            "contradictions": tuple(fields["contradictions"]),
        }
    )
