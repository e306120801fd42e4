"""Events of folders by inotify, as far as the kernel gives them: they save time, and nothing may hang on them.

Watches and instances are bounded for each uid (inotify(7), max_user_watches), so that any process of the agent's uid
on the node, a task's among them, can take them all. Whoever reads events here therefore lists again from time to
time, and more often while `trouble` is set.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from inotify_simple import Event, INotify

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})


class Notifier(Protocol):
    """What is used of INotify."""

    def fileno(self) -> int: ...
    def add_watch(self, path: str, mask: int) -> int: ...
    def read(self, timeout: int) -> list[Event]: ...
    def close(self) -> None: ...


def _inotify() -> Notifier:
    made: Notifier = INotify(nonblocking=True)
    return made


@dataclass(slots=True)
class FolderEvents:
    """One inotify instance, or none while the kernel has no room for one."""

    open: Callable[[], Notifier] = _inotify
    unwatched: set[str] = field(default_factory=set)  # paths that found no room
    _notifier: Notifier | None = None
    _why: str = ""  # there is no instance

    def __post_init__(self) -> None:
        self._reopen()

    @property
    def trouble(self) -> str:
        """Why some folders have no events; "" while all have."""
        if self._notifier is None:
            return f"no inotify instance is left ({self._why}; fs.inotify.max_user_instances)"
        if self.unwatched:
            return f"no inotify watch is left for {len(self.unwatched)} folders (fs.inotify.max_user_watches)"
        return ""

    def fileno(self) -> int:
        """For poll(); -1 while there is nothing to wait for."""
        return self._notifier.fileno() if self._notifier is not None else -1

    def watch(self, path: str, mask: int) -> int | None:
        """The watch's number; None where there is no room for one. Raises OSError: the folder cannot be watched."""
        if self._notifier is None and not self._reopen():
            self.unwatched.add(path)
            return None
        assert self._notifier is not None
        try:
            number = self._notifier.add_watch(path, mask)
        except OSError as exc:
            self.unwatched.discard(path)
            if exc.errno not in _NO_ROOM:
                raise
            self.unwatched.add(path)
            return None
        self.unwatched.discard(path)
        return number

    def read(self, timeout_seconds: float = 0.0) -> list[Event]:
        """What came since the last call; waits up to `timeout_seconds` for a first event."""
        if self._notifier is None:
            time.sleep(timeout_seconds)
            return []
        return self._notifier.read(timeout=int(timeout_seconds * 1000))

    def close(self) -> None:
        if self._notifier is not None:
            self._notifier.close()

    def _reopen(self) -> bool:
        try:
            self._notifier = self.open()
        except OSError as exc:
            if exc.errno not in _NO_ROOM:
                raise
            self._why = exc.strerror or str(exc)
        return self._notifier is not None
