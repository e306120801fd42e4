"""The agent's sign of life to the kernel, from a thread of its own: a writing thread that computes for long is alive.

One that stands still for STANDS_STILL_SECONDS is not: then the kernel takes the agent for dead (L6), and the kubelet
starts it again. No revision takes that long, on a starved node either; until then unknown pods stay pending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agent.model.node_state import STANDS_STILL_SECONDS

BEAT_SECONDS = 1.0


class Heartbeat:
    """`write` puts settings and time into map `config`; never called by two threads at once."""

    def __init__(self, write: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._moved = clock()
        self._over = threading.Event()
        self._one = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """With a first beat, in the calling thread."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Before the map is closed; when it returns, nothing is written any more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def moves(self) -> None:
        """From the writing thread, whenever it begins something new."""
        self._moved = self._clock()

    def beat(self) -> None:
        """If the writing thread has moved lately."""
        if self._clock() - self._moved < STANDS_STILL_SECONDS:
            with self._one:
                self._write()

    def _run(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self.beat()
