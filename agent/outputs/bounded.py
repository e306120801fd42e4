"""A threading server that answers so many requests at once, and closes the door on more."""

from __future__ import annotations

import threading
from socketserver import ThreadingMixIn
from typing import Any


class BoundedThreads(ThreadingMixIn):
    """Put before the server's class; set `room` before the server is activated."""

    daemon_threads = True
    request_queue_size = 64
    room: threading.BoundedSemaphore

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)  # type: ignore[attr-defined]

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()
