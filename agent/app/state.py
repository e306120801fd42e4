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
from agent.sources.atomic import replace_file

_VERSION = 1
MOST_LINES = 1000
"""Of the journal, before the whole is written again."""


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
        self._file, self._journal = folder / "state.json", folder / "state.journal"
        self._kept: State | None = None
        self._lines = 0

    def read(self) -> State:
        """What was kept last; empty where there is nothing. A file that cannot be read is an error."""
        state = self._whole()
        for line in self._journal_lines():
            try:
                state = _after(state, json.loads(line))
            except (LookupError, TypeError, ValueError, AttributeError) as exc:
                raise StateError(f"{self._journal}: damaged: {exc!r}") from exc
        return state

    def keep(self, state: State) -> None:
        """What differs from the last call becomes one more line of the journal, or many lines one file."""
        if state == self._kept:
            return
        if self._kept is None or self._lines >= MOST_LINES:
            self.write(state)
            return
        line = json.dumps(_difference(self._kept, state)) + "\n"
        try:
            with open(self._journal, "a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise StateError(f"{self._journal}: {exc.strerror}") from exc
        self._kept, self._lines = state, self._lines + 1

    def _journal_lines(self) -> list[bytes]:
        """A last line without an end was being written when the agent or the node died: it never was."""
        try:
            return self._journal.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise StateError(f"{self._journal}: {exc.strerror}") from exc

    def _whole(self) -> State:
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
        """Replaces the file atomically; then the journal goes. Between the two, the journal says nothing new."""
        document = {
            "version": _VERSION,
            "complete": state.complete,
            "namespaces": state.namespaces,
            "numbers": [[asdict(identity), number] for identity, number in state.numbers.items()],
            "claims": {uid: asdict(claim) for uid, claim in state.claims.items()},
        }
        replace_file(self._file, json.dumps(document))
        try:
            self._journal.unlink(missing_ok=True)
        except OSError as exc:
            raise StateError(f"{self._journal}: {exc.strerror}") from exc
        self._kept, self._lines = state, 0

    def close(self) -> None:
        os.close(self._lock)


def _state(document: dict[str, Any]) -> State:
    return State(
        numbers={_identity(i): IdentityNumber(n) for i, n in document["numbers"]},
        claims={PodUid(uid): _claim(c) for uid, c in document["claims"].items()},
        namespaces=dict(document["namespaces"]),
        complete=document["complete"],
    )


def _difference(before: State, now: State) -> dict[str, Any]:
    same = before.numbers is now.numbers
    fresh = {} if same else {i: n for i, n in now.numbers.items() if before.numbers.get(i) != n}
    claims = {uid: claim for uid, claim in now.claims.items() if before.claims.get(uid) != claim}
    return {
        "numbers": [[asdict(identity), number] for identity, number in fresh.items()],
        "numbersGone": [asdict(i) for i in before.numbers if not same and i not in now.numbers],
        "claims": {uid: asdict(claim) for uid, claim in claims.items()},
        "claimsGone": [uid for uid in before.claims if uid not in now.claims],
        "namespaces": now.namespaces if now.namespaces != before.namespaces else None,
        "complete": now.complete,
    }


def _after(state: State, line: dict[str, Any]) -> State:
    """Going over a line a second time changes nothing."""
    for fields in line["numbersGone"]:
        state.numbers.pop(_identity(fields), None)
    for uid in line["claimsGone"]:
        state.claims.pop(PodUid(uid), None)
    for fields, number in line["numbers"]:
        state.numbers[_identity(fields)] = IdentityNumber(number)
    state.claims.update((PodUid(uid), _claim(fields)) for uid, fields in line["claims"].items())
    state.namespaces = state.namespaces if line["namespaces"] is None else dict(line["namespaces"])
    state.complete = line["complete"]
    return state


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
