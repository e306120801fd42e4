"""The flow log: JSON lines in Hubble's format, in a file that is rotated by size, written by a thread of its own.

Nothing here may hold up or end enforcement: what cannot be written is counted by reason, and logged once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from agent import __version__
from agent.log import event
from agent.model.flow import Denial, FailedLookup, Flow, Outcome
from agent.not_understood import NotUnderstood
from agent.outputs.hubble import Seen, lines_of
from agent.outputs.output import Output

MAX_BYTES = 64 * 1024 * 1024
KEEP = 5
QUEUED = 200_000
"""Records that may wait for a slow disk before the next are lost."""

Batch = Sequence[Flow] | Sequence[Denial] | Sequence[FailedLookup] | Sequence[Outcome]


class RotatingFile:
    """`PATH`, `PATH.1` (the newest of the old ones) .. `PATH.KEEP`. A line is in one file, whole.

    Renames only: what was written is never copied or cut, and a reader that has the file open reads it to its end.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> None:
        self._path, self._max, self._keep = path, max_bytes, max(1, keep)
        self._file: BinaryIO | None = None
        self._size = 0

    def write(self, lines: Sequence[bytes]) -> None:
        """All lines, then a flush. Raises OSError; then some of them may be missing."""
        if self._file is None:
            self._open()
        pending: list[bytes] = []
        for line in lines:
            if self._size and self._size + len(line) > self._max:
                self._put(pending)
                pending = []
                self._rotate()
            pending.append(line)
            self._size += len(line)
        self._put(pending)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, lines: list[bytes]) -> None:
        file = self._file or self._open()
        try:
            file.write(b"".join(lines))
            file.flush()
        except OSError:
            self._file = None
            with contextlib.suppress(OSError):
                file.close()  # tries once more to write what is in its buffer
            raise

    def _open(self) -> BinaryIO:
        """Appends; the size counts what an earlier agent left. A line that was cut short is ended first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._file, self._size = os.fdopen(fd, "ab"), os.fstat(fd).st_size
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
            self._file.write(b"\n")
        return self._file

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                os.replace(older, self._numbered(number + 1))
        if self._path.exists():
            os.replace(self._path, self._numbered(1))
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class FlowLog(Output):
    """`flows` and `denials` are called from the draining thread and never wait."""

    def __init__(self, file: RotatingFile, node: str, *, queued: int = QUEUED) -> None:
        self._file, self._node, self._room = file, node, queued
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._failing = False
        self._broken = NotUnderstood("flow_log_line")
        self._thread = threading.Thread(target=self._run, name="flow-log", daemon=True)
        self._lost: Counter[str] = Counter(flow_log_queue=0, flow_log_write=0, flow_log_encode=0)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Writes what waits, then ends."""
        self._batches.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def losses(self) -> Mapping[str, int]:
        return dict(self._lost)

    def flows(self, flows: list[Flow]) -> None:
        self._queue(flows)

    def denials(self, denials: list[Denial]) -> None:
        self._queue(denials)

    def lookups(self, lookups: list[FailedLookup]) -> None:
        self._queue(lookups)

    def outcomes(self, outcomes: list[Outcome]) -> None:
        self._queue([each for each in outcomes if each.failed])

    def write(self, batch: Batch) -> None:
        """One batch to the file, in the thread that calls. A failure is counted; the next batch tries again."""
        lines = [line for seen in batch for line in self._lines(seen)]
        try:
            self._file.write(lines)
        except OSError as exc:
            self._lost["flow_log_write"] += len(lines)
            if not self._failing:
                event("flow_log.failed", level=logging.ERROR, why=str(exc))
            self._failing = True
            return
        if self._failing:
            event("flow_log.mended", lost=self._lost["flow_log_write"])
        self._failing = False

    def _lines(self, seen: Seen) -> list[bytes]:
        try:
            return lines_of(seen, self._node, __version__)
        except Exception as exc:  # noqa: BLE001  a clock before year 1, and the like: one line must not cost the log
            self._lost["flow_log_encode"] += 1
            self._broken.note(exc)
            return []

    def _queue(self, batch: Batch) -> None:
        with self._lock:
            fits = self._waiting + len(batch) <= self._room
            self._waiting += len(batch) if fits else 0
        if not fits:
            self._lost["flow_log_queue"] += len(batch)
        elif batch:
            self._batches.put(batch)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            self.write(batch)
            with self._lock:
                self._waiting -= len(batch)
        self._file.close()
