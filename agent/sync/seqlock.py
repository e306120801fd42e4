"""A sequence lock between the thread that writes the maps and one that reads a verdict in several lookups.

Programs in the kernel need none: the writer waits for those that run (kernel/grace.py). A thread may stall between
two lookups for as long as the machine pleases, see the first of one revision and the second of the next, and end a
connection that both allow. So it reads again what was written meanwhile
(kernel: Documentation/locking/seqlock.rst).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class SeqLock:
    """One writer, any number of readers. The writer never waits."""

    def __init__(self, wait_seconds: float = 0.001) -> None:
        self._number = 0  # odd: the maps are being written
        self._wait_seconds = wait_seconds

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around the writes of which a reader must not see a part."""
        self._number += 1
        try:
            yield
        finally:
            self._number += 1

    def begin(self) -> int:
        """The number of what is in the maps; waits while they are being written."""
        while (number := self._number) % 2:
            time.sleep(self._wait_seconds)
        return number

    def unchanged(self, number: int) -> bool:
        """Is it still what was there at `begin`?"""
        return self._number == number
