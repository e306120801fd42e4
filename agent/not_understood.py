"""What comes from outside and trips the agent up: it is left out, counted and logged; no thread ends.

Anybody may have sent it, so that an agent that ended would be everybody's. It is a defect all the same: the log has
the traceback, once in LOG_SECONDS, and how many went unsaid.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from agent.errors import KernelError
from agent.log import event

LOG_SECONDS = 10.0
T = TypeVar("T")


@dataclass(slots=True)
class NotUnderstood:
    """`what` it is, for the log: `record`, `object`. Any thread."""

    what: str
    clock: Callable[[], float] = time.monotonic
    count: int = 0
    _unsaid: int = 0
    _quiet_until: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def guard(self, work: Callable[[], T], otherwise: T) -> T:
        """What `work` returns, or `otherwise` where that fails; what the kernel refuses is no fault of a record."""
        try:
            return work()
        except (KernelError, MemoryError):
            raise
        except Exception as exc:  # noqa: BLE001  counted and logged: a stranger's bytes must not end a thread
            self.note(exc)
            return otherwise

    def note(self, exc: Exception) -> None:
        """One more, which was left out."""
        with self._lock:
            self.count += 1
            now = self.clock()
            if self._quiet_until is not None and now < self._quiet_until:
                self._unsaid += 1
                return
            unsaid, self._unsaid, self._quiet_until = self._unsaid, 0, now + LOG_SECONDS
        event(f"{self.what}.not_understood", level=logging.ERROR, exc=exc, unsaid_before=unsaid, count=self.count)
