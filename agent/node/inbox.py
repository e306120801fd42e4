"""What other threads post to the writing thread, and what wakes it."""

from __future__ import annotations

import os
import queue
from collections import Counter

from agent.sources.update import Update
from agent.sync.epochs import Share

Posted = tuple[float, Update]
"""When the source had it, on the monotonic clock, and what it is."""


class Inbox:
    """`updated`, `evicted` and `stop` from any thread; all else from the writing thread."""

    def __init__(self) -> None:
        self._updates: queue.SimpleQueue[Posted] = queue.SimpleQueue()
        self._evictions: queue.SimpleQueue[Counter[Share]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False

    def updated(self, read_at: float, update: Update) -> None:
        """The source has something new; `read_at` on the monotonic clock."""
        self._updates.put((read_at, update))
        os.eventfd_write(self._wake, 1)

    def evicted(self, by_share: Counter[Share]) -> None:
        """The draining thread has taken these out of `flows`."""
        self._evictions.put(by_share)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """The writing thread is to end. A signal may call it, too."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def stopping(self) -> bool:
        return self._stopping

    def fileno(self) -> int:
        """For poll(): readable after each post."""
        return self._wake

    def take(self) -> tuple[Counter[Share], Posted | None]:
        """Everything that was posted: evictions added up, and all updates as one, read when the first of them was. A
        pass for each update would fall behind when pods come faster than passes."""
        os.eventfd_read(self._wake)
        evictions: Counter[Share] = Counter()
        while not self._evictions.empty():
            evictions.update(self._evictions.get())
        if self._updates.empty():
            return evictions, None
        read_at, update = self._updates.get()
        while not self._updates.empty():
            update = update.then(self._updates.get()[1])
        return evictions, (read_at, update)

    def close(self) -> None:
        os.close(self._wake)
