"""The state folder: one agent at a time, identity numbers and frozen claims across restarts (I2, I6, L3).

A SQLite database, because each pod that comes is a small change to much. A commit outlives the agent however it ends;
with the node's power the last moments may go (`synchronous=NORMAL`, https://www.sqlite.org/pragma.html), and the
database stays whole. Pods that came in those moments are then seen for the first time again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from agent.errors import StateError
from agent.model.identity import Attestation, Claim, Identity, IdentityNumber, Kind, PodUid
from agent.node.state_db import Row, StateDb


@dataclass(slots=True)
class State:
    """What is remembered. `complete`: the sources have listed everything at least once on this node.

    `boot`: the kernel's boot id when that was written (proc(5), random/boot_id); pins do not outlive it.
    """

    numbers: dict[Identity, IdentityNumber] = field(default_factory=dict)
    claims: dict[PodUid, Claim] = field(default_factory=dict)
    namespaces: dict[str, bool] = field(default_factory=dict)  # is it managed
    complete: bool = False
    boot: str = ""
    admitted: dict[str, str] = field(default_factory=dict)  # digests of the policies in force, by name (P17)
    damage: tuple[str, ...] = ()  # what could not be read: nothing can be taken for unknown here then


@dataclass(slots=True)
class StateChange:
    """What is to be remembered now, and what forgotten (None). `namespaces` are all of them."""

    numbers: Mapping[Identity, IdentityNumber | None] = field(default_factory=dict)
    claims: Mapping[PodUid, Claim | None] = field(default_factory=dict)
    namespaces: Mapping[str, bool] = field(default_factory=dict)
    complete: bool = False
    admitted: Mapping[str, str] = field(default_factory=dict)


def boot_id() -> str:
    """Another one after each boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def refuse_owned(folder: Path) -> None:
    """StateError where another agent owns it; makes and holds nothing."""
    if (folder / "lock").exists():
        with suppress(OSError):  # whoever opens it in earnest says so
            os.close(_locked(folder))


def _locked(folder: Path) -> int:
    """A descriptor that holds it until its end. Raises StateError where another agent does, and OSError."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if isinstance(exc, BlockingIOError):
            raise StateError(f"{folder}: another agent owns this state folder") from exc
        raise
    return lock


def note_detached(folder: Path) -> None:
    """The pins are gone by somebody's word: the next start has nothing to say about that. Raises StateError."""
    if (folder / "state.db").exists():
        state = StateFolder(folder)
        try:
            state.forget_boot()
        finally:
            state.close()


class StateFolder:
    """Held open for the agent's life; the lock goes with the process, however it ends. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises StateError: somebody else's, or not a folder. A disk that takes nothing is no reason to end."""
        self._lock = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
        except FileExistsError as exc:
            raise StateError(f"{folder}: is no folder") from exc
        except OSError as exc:
            if exc.errno not in _NO_WRITES:
                raise StateError(f"{folder}: {exc.strerror}") from exc
        self._db = StateDb(folder / "state.db")
        self._numbers: dict[Identity, IdentityNumber | None] = {}
        self._claims: dict[PodUid, Claim | None] = {}
        self._kept: tuple[Mapping[str, bool], bool] | None = None
        self._admitted: Mapping[str, str] | None = None

    def damage(self) -> tuple[str, ...]:
        """What could not be read."""
        return tuple(dict.fromkeys(self._db.damage))

    def read(self) -> State:
        """What was kept last, as far as it can be read; empty where there is nothing."""
        damage = self._db.damage
        facts = dict(self._db.rows("facts"))
        admitted: object = {}
        with _noting(damage, "facts"):
            admitted = dict(json.loads(facts.get("admitted") or "{}"))
        found = State(
            namespaces={name: bool(managed) for name, managed in self._db.rows("namespaces")},
            complete=bool(facts.get("complete")),
            boot=str(facts.get("boot") or ""),
            admitted=admitted if isinstance(admitted, dict) else {},
        )
        for text, number in sorted(self._db.rows("numbers"), key=lambda row: str(row[1]).rjust(20)):
            with _noting(damage, "numbers"):
                found.numbers[_identity(json.loads(text))] = IdentityNumber(int(number))
        for uid, text in self._db.rows("claims"):
            with _noting(damage, "claims"):
                found.claims[PodUid(uid)] = _claim(json.loads(text))
        found.damage = self.damage()
        return found

    def keep(self, change: StateChange) -> None:
        """One transaction, if there is anything new. Raises StateError; the next call tries it all again."""
        self._numbers.update(change.numbers)
        self._claims.update(change.claims)
        now = (change.namespaces, change.complete)
        same = now == self._kept and change.admitted == self._admitted
        if not self._numbers and not self._claims and same:
            return
        rows: list[tuple[str, Row]] = [("numbers", (_text(i), n)) for i, n in self._numbers.items()]
        rows += [("claims", (uid, c and _text(c))) for uid, c in self._claims.items()]
        if now != self._kept:
            gone = self._db.keys("namespaces") - change.namespaces.keys()
            rows += [("namespaces", (name, None)) for name in gone]
            rows += [("namespaces", row) for row in change.namespaces.items()]
            rows += [("facts", ("complete", change.complete)), ("facts", ("boot", boot_id()))]
        if change.admitted != self._admitted:
            rows.append(("facts", ("admitted", json.dumps(dict(change.admitted)))))
        self._db.write(rows)
        self._numbers, self._claims, self._kept, self._admitted = {}, {}, now, change.admitted

    def forget_boot(self) -> None:
        """As if no agent had enforced here since the boot. Raises StateError."""
        self._db.write([("facts", ("boot", None))])

    def close(self) -> None:
        self._db.close()
        if self._lock >= 0:
            os.close(self._lock)


_NO_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


@contextmanager
def _noting(damage: list[str], what: str) -> Iterator[None]:
    """An unreadable row is left out, and reported as damage."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        damage.append(f"{what}: damaged: {exc!r}")


def _text(value: Identity | Claim) -> str:
    return json.dumps(value, default=_fields, sort_keys=True, separators=(",", ":"))


def _fields(value: Identity | Claim) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _identity(found: dict[str, Any]) -> Identity:
    return Identity(**found | {"kind": Kind(found["kind"])})


def _claim(found: dict[str, Any]) -> Claim:
    return Claim(
        **found
        | {
            "identity": _identity(found["identity"]),
            "labels": tuple((k, v) for k, v in found["labels"]),
            "attestation": Attestation(found["attestation"]),
            "contradictions": tuple(found["contradictions"]),
        }
    )
