"""What the agent logs of a new snapshot and of its readiness: which policy came, changed or went, what is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.log import event
from agent.model.cluster import Cluster
from agent.model.node_state import NodeState
from agent.model.report import EndpointRow
from agent.model.verdict import EndpointState

MOST = 100
"""Objects that one snapshot names in the log; of the others their number."""


@dataclass(slots=True)
class News:
    """Called from the writing thread with each report; logs what differs from the last one."""

    clock: Callable[[], float] = time.monotonic

    _cluster: Cluster = field(default_factory=Cluster)
    _not_ready_since: float | None = None

    def report(self, state: NodeState) -> None:
        self.snapshot(state.cluster)
        self.readiness(ready=state.status.ready)
        for row in state.contradicting:
            log_contradiction(row)

    def snapshot(self, cluster: Cluster) -> None:
        """The first one names everything in force at the start."""
        old, self._cluster = self._cluster, cluster
        named = 0
        for before, now in (
            (old.policies, cluster.policies),
            (old.network_policies, cluster.network_policies),
            (old.bindings, cluster.bindings),
        ):
            kind = "TaskIdentityBinding/" if now is cluster.bindings else ""
            for name, change in _changes(before, now) if before is not now else ():
                named += 1
                if named <= MOST:
                    event("policy.changed", policy=f"{kind}{name}", change=change, revision=cluster.revision)
        if named > MOST:
            event("policy.changed", more=named - MOST, revision=cluster.revision)

    def readiness(self, *, ready: bool) -> None:
        """Problems are logged where they come up; here is their end."""
        if not ready and self._not_ready_since is None:
            self._not_ready_since = self.clock()
        elif ready and self._not_ready_since is not None:
            event("agent.ready", after_seconds=round(self.clock() - self._not_ready_since, 3))
            self._not_ready_since = None


def _changes(before: Mapping[Any, object], now: Mapping[Any, object]) -> list[tuple[str, str]]:
    came = [(str(name), "came") for name in now if name not in before]
    changed = [(str(name), "changed") for name in now if name in before and before[name] != now[name]]
    return sorted([*came, *changed, *((str(name), "went") for name in before if name not in now)])


def log_state(before: EndpointRow, row: EndpointRow) -> None:
    """The end of pending and of quarantine, and their beginning on a pod that was something else."""
    if before.state != row.state and {before.state, row.state} & {EndpointState.PENDING, EndpointState.QUARANTINED}:
        event(
            "endpoint.state", uid=row.uid, namespace=row.namespace, pod=row.pod, identity=row.identity,
            before=before.state.name.lower(), state=row.state.name.lower(), binding=row.binding,
        )  # fmt: skip


def log_contradiction(row: EndpointRow) -> None:
    """A claim that contradicts itself or a binding is a mistake or a lie (I2, I5)."""
    event(
        "endpoint.contradicts", level=logging.WARNING, uid=row.uid, namespace=row.namespace, pod=row.pod,
        identity=row.identity, state=row.state.name.lower(), binding=row.binding,
        why="; ".join(map(str, row.contradictions)),
    )  # fmt: skip
