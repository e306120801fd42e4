"""The newest report, and the totals of about the same moment: what metrics, the local API and the probes show."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.errors import MapError
from agent.model.cluster import Cluster
from agent.model.node_state import STANDS_STILL_SECONDS, NodeState, View
from agent.model.report import Totals
from agent.outputs.output import Output
from agent.outputs.words import hook_missing

CACHE_SECONDS = 1.0
SLOW_SECONDS = 10.0
"""A node whose writing thread has published nothing for so long is not ready: what came meanwhile is not in force."""

Read = Callable[[NodeState], Totals]
"""Raises MapError and OSError once the agent has ended."""


class Latest(Output):
    """Any thread. `lost`: what all outputs lost, by reason."""

    def __init__(self, lost: Callable[[], Mapping[str, int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._lost, self._clock = lost, clock
        self._state: NodeState | None = None
        self._read: Read | None = None
        self._totals = Totals()
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def read_with(self, read: Read) -> None:
        """Before that there are no totals, and so no view."""
        self._read = read

    def report(self, state: NodeState) -> None:
        self._state = state

    def view(self) -> View | None:
        """The whole of it; None while the agent starts. After the agent's end: what was known last."""
        state, read = self._state, self._read
        if state is None or read is None:
            return None
        with self._lock:
            now = self._clock()
            if now - self._read_at > CACHE_SECONDS:
                self._read_at = now
                try:
                    totals = read(state)
                except (MapError, OSError):  # closed by the agent's end
                    totals = self._totals
                self._totals = replace(totals, losses={**totals.losses, **self._lost()})
            return View(state, self._totals)

    def cluster(self) -> Cluster:
        """The snapshot that the maps say."""
        return self._state.cluster if self._state is not None else Cluster()

    def dead(self) -> tuple[str, ...]:
        """Why the process should be started again (liveness). One that has not begun yet is not dead."""
        return self._silent(STANDS_STILL_SECONDS)

    def unready(self) -> tuple[str, ...]:
        return (*problems(self._state), *self._silent(SLOW_SECONDS)) if self._state is not None else ("starting",)

    def _silent(self, seconds: float) -> tuple[str, ...]:
        silent = self._clock() - self._state.at if self._state is not None else 0.0
        return (f"the writing thread has published nothing for {silent:.0f} s",) if silent > seconds else ()

    def lacking(self) -> tuple[str, ...]:
        """What is off or lacking: no reason not to be ready, and shown where readiness is asked for."""
        if self._state is None:
            return ()
        off = tuple(f"off on this node: {name}" for name, there in self._state.facts.features.items() if not there)
        return off + self._state.status.without_events


def problems(state: NodeState) -> tuple[str, ...]:
    """Why the node is not ready."""
    status = state.status
    return (*status.problems.values(), *(hook_missing(hook) for hook in status.hooks if not hook.attached))
