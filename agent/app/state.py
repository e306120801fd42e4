"""The state folder: one agent at a time, identity numbers and frozen claims across restarts (I2, I6, L3).

A SQLite database, because each pod that comes is a small change to much. A commit outlives the agent however it ends;
with the node's power the last moments may go (`synchronous=NORMAL`, https://www.sqlite.org/pragma.html), and the
database stays whole. Pods that came in those moments are then seen for the first time again.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from agent.errors import StateError
from agent.model.identity import Attestation, Claim, Identity, IdentityNumber, Kind, PodUid
from agent.sync.writer import Writer

_VERSION = 1
_SCHEMA = """
CREATE TABLE numbers (identity TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE claims (uid TEXT PRIMARY KEY, claim TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE namespaces (name TEXT PRIMARY KEY, managed INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
"""
_CACHE_KB = 256
PINS_WERE_GONE = "an agent has enforced here since the boot, and its pins were gone: nothing was enforced meanwhile"

LINKS_WERE_LOST = "an agent had attached these programs, and somebody took them off: they judged nothing meanwhile"


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


@dataclass(slots=True)
class StateChange:
    """What is to be remembered now, and what forgotten (None). `namespaces` are all of them."""

    numbers: Mapping[Identity, IdentityNumber | None] = field(default_factory=dict)
    claims: Mapping[PodUid, Claim | None] = field(default_factory=dict)
    namespaces: Mapping[str, bool] = field(default_factory=dict)
    complete: bool = False
    admitted: Mapping[str, str] = field(default_factory=dict)


def change_of(
    writer: Writer, claims: Mapping[PodUid, Claim], uids: Iterable[PodUid], *, complete: bool
) -> StateChange:
    """What the writer has given out since the last call, and the claims of these pods: of other nodes' too, which may
    be peers by what they claim (I2). Before the first complete list nobody is forgotten."""
    here, cluster = writer.endpoints.by_uid, writer.cluster
    return StateChange(
        numbers=writer.endpoints.numbers.take_changes(),
        claims={
            uid: claims.get(uid) if uid in here or uid in cluster.pods else None
            for uid in uids
            if uid in here or cluster.complete
        },
        namespaces={name: namespace.managed for name, namespace in writer.cluster.namespaces.items()},
        complete=complete,
        admitted=writer.intake.admission.digests,
    )


def boot_id() -> str:
    """Another one after each boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class StateFolder:
    """Held open for the agent's life; the lock goes with the process, however it ends. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises StateError: somebody else's, not a folder, or a database that cannot be read."""
        self._path = folder / "state.db"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._lock)
            raise StateError(f"{folder}: another agent owns this state folder") from exc
        except OSError as exc:
            raise StateError(f"{folder}: {exc.strerror}") from exc
        try:
            self._open()
        except StateError:
            os.close(self._lock)
            raise
        self._numbers: dict[Identity, IdentityNumber | None] = {}
        self._claims: dict[PodUid, Claim | None] = {}
        self._kept: tuple[Mapping[str, bool], bool] | None = None
        self._admitted: Mapping[str, str] | None = None

    def read(self) -> State:
        """What was kept last; empty where there is nothing. Raises StateError."""
        with self._errors():
            facts = dict(self._all("SELECT name, value FROM facts"))
            return State(
                numbers={
                    _identity(json.loads(i)): IdentityNumber(n)
                    for i, n in self._all("SELECT identity, number FROM numbers ORDER BY number")
                },
                claims={PodUid(uid): _claim(json.loads(c)) for uid, c in self._all("SELECT uid, claim FROM claims")},
                namespaces={name: bool(m) for name, m in self._all("SELECT name, managed FROM namespaces")},
                complete=bool(facts.get("complete")),
                boot=str(facts.get("boot") or ""),
                admitted=dict(json.loads(facts.get("admitted") or "{}")),
            )

    def keep(self, change: StateChange) -> None:
        """One transaction, if there is anything new. Raises StateError; the next call tries it all again."""
        self._numbers.update(change.numbers)
        self._claims.update(change.claims)
        told = (change.namespaces, change.complete)
        same = told == self._kept and change.admitted == self._admitted
        if not self._numbers and not self._claims and same:
            return
        with self._errors(), self._db:
            self._put("numbers", ((_text(i), n) for i, n in self._numbers.items()))
            self._put("claims", ((uid, c and _text(c)) for uid, c in self._claims.items()))
            if told != self._kept:
                self._db.execute("DELETE FROM namespaces")
                self._put("namespaces", change.namespaces.items())
                self._put("facts", [("complete", change.complete), ("boot", boot_id())])
            if change.admitted != self._admitted:
                self._put("facts", [("admitted", json.dumps(dict(change.admitted)))])
        self._numbers, self._claims, self._kept, self._admitted = {}, {}, told, change.admitted

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def _open(self) -> None:
        with self._errors():
            # Whoever calls: the agent is built in one thread and may run in another.
            self._db = sqlite3.connect(self._path, check_same_thread=False)
            os.chmod(self._path, 0o600)
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not version and not tables:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
            elif version != _VERSION:
                raise StateError(f"{self._path}: written by another version of dagwall (schema {version})")

    def _put(self, table: str, rows: Iterable[tuple[str, object]]) -> None:
        """Upserts; None deletes. Table names are this module's own."""
        for key, value in rows:
            if value is None:
                self._db.execute(f"DELETE FROM {table} WHERE {_KEYS[table]} = ?", (key,))
            else:
                self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, value))

    def _all(self, query: str) -> list[Any]:
        return self._db.execute(query).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StateError(f"{self._path}: {exc}") from exc
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise StateError(f"{self._path}: damaged: {exc!r}") from exc


_KEYS = {"numbers": "identity", "claims": "uid", "namespaces": "name", "facts": "name"}


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
