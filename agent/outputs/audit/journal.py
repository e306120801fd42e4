"""The files of the audit log: `PATH`, `PATH.1` (the newest of the old ones) and so on; lines are only added.

A batch is one write, and its last line is signed: what a killed agent leaves is whole batches, and at most a part of
one. The next agent keeps that part, tells in its first record how much of it there is, and goes on after the last
whole line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.outputs.audit.chain import MAX_LINE_BYTES, Head, Record, Signer, canonical, digest, link

MAX_BYTES, KEEP = 64 * 1024 * 1024, 16
_TAIL = 4 * MAX_LINE_BYTES


@dataclass(frozen=True, slots=True)
class Found:
    """What an agent finds: the last whole line, the part of one after it by length and hash, what is not signed."""

    head: Head
    cut_bytes: int = 0
    cut_hash: str = ""
    last: Record | None = None
    unsigned: int = 0  # whole lines at the end that nobody has signed
    open_end: bool = False  # the file does not end with the end of a line

    def as_fields(self) -> dict[str, Any]:
        cut = {"cut_bytes": self.cut_bytes, "cut_hash": self.cut_hash} if self.cut_hash else {}
        return cut | ({"unsigned_before": self.unsigned} if self.unsigned else {})


class Journal:
    """One thread. Methods raise OSError; after that `resume` is to be called before the next `append`."""

    def __init__(self, path: Path, signer: Signer, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> None:
        self.path, self._signer, self._max, self._keep = path, signer, max_bytes, max(1, keep)
        self.head = Head()
        self._fd = -1
        self._size = 0

    def resume(self) -> Found:
        """Opens the file, makes what is cut a line of its own, and goes on after the last whole line of it."""
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        found = self._found(self._fd, self._size)
        if found.open_end:
            self._write(b"\n")
        if found.last is None:
            found = self._of_older() or found
        self.head = found.head
        return found

    def append(self, records: Sequence[Record]) -> None:
        """All of them, the last one signed. The head moves only when all are written."""
        head, lines = self.head, list[bytes]()
        for number, record in enumerate(records, 1):
            head, line = link(head, record, self._signer if number == len(records) else None)
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"a record of {len(line)} bytes")
            lines.append(line)
        self._write(b"".join(lines))
        self.head = head

    @property
    def full(self) -> bool:
        return self._size >= self._max

    def leaving(self) -> int:
        """The last number in the file that goes with the next rotation; 0: none goes."""
        try:
            with open(self._numbered(self._keep), "rb") as file:
                return self._found(file.fileno(), os.fstat(file.fileno()).st_size).head.seq
        except FileNotFoundError:
            return 0

    def rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            if self._numbered(number).exists():
                os.replace(self._numbered(number), self._numbered(number + 1))
        self.close()
        os.replace(self.path, self._numbered(1))
        self._open()

    def keep_head(self) -> None:
        """Beside the log, once it is on the disk: what tells a later agent that the end is missing."""
        os.fsync(self._fd)
        fresh = self._head_path.with_name(f"{self._head_path.name}.new")
        fresh.write_bytes(canonical({"seq": self.head.seq, "hash": self.head.hash}) + b"\n")
        os.replace(fresh, self._head_path)

    def kept_head(self) -> Head:
        """Nothing where there is none that can be read."""
        try:
            found = json.loads(self._head_path.read_bytes())
            return Head(int(found["seq"]), str(found["hash"]))
        except (OSError, ValueError, TypeError, KeyError):
            return Head()

    @property
    def _head_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.head")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def _write(self, data: bytes) -> None:
        """One call, so that a kill falls between batches; what a full disk cuts off is no whole line."""
        written = os.write(self._fd, data)
        self._size += written
        if written < len(data):
            raise OSError(28, f"{written} of {len(data)} bytes written")

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _of_older(self) -> Found | None:
        """An agent was killed right after a rotation."""
        try:
            with open(self._numbered(1), "rb") as file:
                return self._found(file.fileno(), os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return None

    @staticmethod
    def _found(fd: int, size: int) -> Found:
        """From the end of a file: lines that are no records are what was cut."""
        data = os.pread(fd, min(size, _TAIL), max(0, size - _TAIL))
        *lines, tail = data.split(b"\n")
        cut = [tail] if tail else []
        while lines:
            line = lines.pop()
            if (record := whole(line)) is not None:
                head = Head(int(record["seq"]), digest(line))
                return _with_cut(Found(head, last=record, unsigned=_unsigned([*lines, line])), cut, tail)
            cut.insert(0, line)
        return _with_cut(Found(Head()), cut, tail)


def _with_cut(found: Found, cut: Sequence[bytes], tail: bytes) -> Found:
    text = b"\n".join(cut)
    return replace(found, cut_bytes=len(text), cut_hash=digest(text), open_end=bool(tail)) if cut else found


def _unsigned(lines: Sequence[bytes]) -> int:
    """At the end, as far as was read."""
    count = 0
    while count < len(lines) and "sig" not in (whole(lines[-1 - count]) or {}):
        count += 1
    return count


def whole(line: bytes) -> dict[str, Any] | None:
    """The record that a line is, if it is one as this log writes them."""
    try:
        record = json.loads(line)
        good = isinstance(record, dict) and type(record.get("seq")) is int and canonical(record) == line
    except (ValueError, RecursionError):
        return None
    return record if good else None
