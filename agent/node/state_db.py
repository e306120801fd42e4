"""Tables of keys and values in a SQLite file, each row with a checksum. Damage is reported, and ends nothing.

A file that is no database, of another schema, or damaged in its structure is set aside; what can be read of it goes
into a new one. Where the disk takes nothing, what is there is read, and each write tries to begin again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import StateError

_VERSION = 2
_TABLES = {"numbers": "identity", "claims": "uid", "namespaces": "name", "facts": "name"}
_VALUES = {"numbers": "number INTEGER", "claims": "claim TEXT", "namespaces": "managed INTEGER", "facts": "value"}
_CREATE = "".join(
    f"CREATE TABLE {name} ({key} TEXT PRIMARY KEY, {_VALUES[name]} NOT NULL, crc INTEGER) WITHOUT ROWID;"
    for name, key in _TABLES.items()
)
_CACHE_KB = 256
_NO_WRITES = ("disk is full", "disk I/O error", "unable to open", "readonly")  # codes come with Python 3.11
Row = tuple[Any, Any]


@dataclass(slots=True)
class StateDb:
    """One thread at a time; nobody else has the file."""

    path: Path
    damage: list[str] = field(default_factory=list)
    _db: sqlite3.Connection | None = None
    _found: dict[str, list[Row]] = field(default_factory=dict)  # read at the start

    def __post_init__(self) -> None:
        if strange := _strange(self.path):
            self.damage.append(f"{self.path}: {strange}")
            self._set_aside()
        try:
            self._db = self._opened()
        except sqlite3.Error as exc:
            self.damage.append(f"{self.path}: {exc}")
            self._found = self._readable()
            if not any(words in str(exc) for words in _NO_WRITES):
                self._set_aside()
                with contextlib.suppress(StateError):
                    self.write([(name, row) for name, rows in self._found.items() for row in rows])

    def rows(self, table: str) -> list[Row]:
        """Those that are as they were written."""
        if self._db is None:
            return self._found.get(table, [])
        return self._checked(self._db, table)

    def write(self, rows: Iterable[tuple[str, Row]]) -> None:
        """(table, (key, value)) in one transaction; None deletes. Raises StateError."""
        with self._errors():
            if self._db is None:
                self._db = self._opened()
            with self._db as db:
                for table, (key, value) in rows:
                    if value is None:
                        db.execute(f"DELETE FROM {table} WHERE {_TABLES[table]} = ?", (key,))
                    else:
                        row = (key, value, checksum(key, value))
                        db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", row)

    def keys(self, table: str) -> set[str]:
        return {key for key, _ in self.rows(table)}

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _opened(self) -> sqlite3.Connection:
        # Whoever calls: the agent is built in one thread and may run in another.
        db = sqlite3.connect(self.path, check_same_thread=False)
        try:
            os.chmod(self.path, 0o600)
            db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not version and not tables:
                db.executescript(f"BEGIN; {_CREATE} PRAGMA user_version = {_VERSION}; COMMIT;")
            elif found != "ok":
                raise sqlite3.DatabaseError(found)
            elif version == 1:
                _add_checksums(db)
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"written by another version of dagwall (schema {version})")
            elif tables < _TABLES.keys():
                raise sqlite3.DatabaseError(f"lacks {', '.join(sorted(_TABLES.keys() - tables))}")
        except BaseException:
            db.close()
            raise
        return db

    def _readable(self) -> dict[str, list[Row]]:
        """What a file that cannot be used still says."""
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
                return {name: self._checked(db, name) for name in _TABLES}
        except sqlite3.Error:
            return {}

    def _checked(self, db: sqlite3.Connection, table: str) -> list[Row]:
        found: list[Row] = []
        try:
            for key, value, crc in db.execute(f"SELECT * FROM {table}"):
                if crc == checksum(key, value):
                    found.append((key, value))
                else:
                    self.damage.append(f"{self.path}: a row of {table} is not as it was written")
        except (sqlite3.Error, ValueError) as exc:
            self.damage.append(f"{self.path}: {table}: {exc}")
        return found

    def _set_aside(self) -> None:
        with contextlib.suppress(OSError):
            os.replace(self.path, self.path.with_name(f"{self.path.name}.damaged"))
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + suffix).unlink()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise StateError(f"{self.path}: {exc}") from exc


def _strange(path: Path) -> str:
    """What is there in a database's place, where it is something else; "" where nothing is there."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    wal = path.with_name(f"{path.name}-wal")
    return "" if found.st_size or wal.exists() else "is empty"


def checksum(key: object, value: object) -> int:
    """Of a row as SQLite gives it back."""
    return zlib.crc32(
        repr((key, int(value) if isinstance(value, bool) else value)).encode("utf-8", "surrogateescape")
    )


def _add_checksums(db: sqlite3.Connection) -> None:
    """From schema 1, whose rows had none."""
    with db:
        db.execute("BEGIN")
        for table, key in _TABLES.items():
            db.execute(f"ALTER TABLE {table} ADD COLUMN crc INTEGER")
            for row in db.execute(f"SELECT * FROM {table}").fetchall():
                db.execute(f"UPDATE {table} SET crc = ? WHERE {key} = ?", (checksum(*row[:2]), row[0]))
        db.execute(f"PRAGMA user_version = {_VERSION}")
