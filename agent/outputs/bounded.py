"""A threading server with so many connections at once, of which none may take its time with the question."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import Any

BRIEF_SECONDS = 0.5
"""A connection that has asked is not closed for another one before that."""
PAUSE_SECONDS = 0.1
"""Without descriptors accept() fails at once, again and again."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


@dataclass(slots=True)
class _Open:
    """A connection: when it came, on the monotonic clock, whether its question is here, and whether it has to go."""

    came: float
    asked: bool = False
    cut: bool = False


@dataclass(slots=True)
class Room:
    """`limit` connections; each has `seconds` to ask, or with `whole` until it has its answer as well.

    Where there is no room the connection that has been here longest goes: who asks at once is answered, however many
    others take their time.
    """

    limit: int
    seconds: float
    whole: bool = False
    _open: dict[socket.socket, _Open] = field(default_factory=dict)
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def enter(self, connection: socket.socket) -> bool:
        """Waits a moment where those that were cut have not ended yet; False where they still have not."""
        with self._lock:
            if len(self._open) >= self.limit:
                self._cut_oldest(time.monotonic())
            if not self._lock.wait_for(lambda: len(self._open) < 2 * self.limit, BRIEF_SECONDS):
                return False
            self._open[connection] = _Open(time.monotonic())
            return True

    def asked(self, connection: socket.socket) -> None:
        """Its whole question is here."""
        with self._lock:
            if connection in self._open:
                self._open[connection].asked = True

    def leave(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)
            self._lock.notify()

    def cut_late(self) -> None:
        """From time to time: the deadlines."""
        due = time.monotonic() - self.seconds
        with self._lock:
            for connection, state in self._open.items():
                if state.came < due and (self.whole or not state.asked):
                    _cut(connection)

    def _cut_oldest(self, now: float) -> None:
        for connection, state in self._open.items():  # in the order they came
            if not state.cut and (not state.asked or (self.whole and now - state.came > BRIEF_SECONDS)):
                state.cut = True
                _cut(connection)
                return


def _cut(connection: socket.socket) -> None:
    """Its thread reads the end, and closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class BoundedThreads(ThreadingMixIn):
    """Put before the server's class; set `room` before the server is activated."""

    daemon_threads = True
    request_queue_size = 64
    room: Room

    def get_request(self) -> Any:
        try:
            return super().get_request()  # type: ignore[misc]
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                time.sleep(PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.room.enter(request):
            self.shutdown_request(request)  # type: ignore[attr-defined]
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be started now
            self.room.leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.leave(request)

    def service_actions(self) -> None:
        super().service_actions()  # type: ignore[misc]
        self.room.cut_late()
