"""What the agent logs of a new snapshot and of its readiness: which policy came, changed or went, what is over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.log import event
from agent.model.cluster import Cluster
from agent.model.report import EndpointRow

MOST = 100
"""Objects that one snapshot names in the log; of the others their number."""


@dataclass(slots=True)
class News:
    """Called from the writing thread with what is in force; says what differs from the last time."""

    _cluster: Cluster = field(default_factory=Cluster)
    _not_ready_since: float | None = None

    def snapshot(self, cluster: Cluster) -> None:
        """The first one names everything in force at the start."""
        old, self._cluster = self._cluster, cluster
        told = 0
        for before, now in (
            (old.policies, cluster.policies),
            (old.network_policies, cluster.network_policies),
            (old.bindings, cluster.bindings),
        ):
            kind = "TaskIdentityBinding/" if now is cluster.bindings else ""
            for name, change in _changes(before, now) if before is not now else ():
                told += 1
                if told <= MOST:
                    event("policy.changed", policy=f"{kind}{name}", change=change, revision=cluster.revision)
        if told > MOST:
            event("policy.changed", more=told - MOST, revision=cluster.revision)

    def readiness(self, problems: tuple[str, ...]) -> None:
        """Problems are logged where they come up; here is their end."""
        if problems and self._not_ready_since is None:
            self._not_ready_since = time.monotonic()
        elif not problems and self._not_ready_since is not None:
            event("agent.ready", after_seconds=round(time.monotonic() - self._not_ready_since, 3))
            self._not_ready_since = None


def _changes(before: Mapping[Any, object], now: Mapping[Any, object]) -> list[tuple[str, str]]:
    came = [(str(name), "came") for name in now if name not in before]
    changed = [(str(name), "changed") for name in now if name in before and before[name] != now[name]]
    return sorted([*came, *changed, *((str(name), "went") for name in before if name not in now)])


def log_state(before: EndpointRow, row: EndpointRow) -> None:
    """The end of pending and of quarantine, and their beginning on a pod that was something else."""
    if before.state != row.state and {before.state, row.state} & {"pending", "quarantined"}:
        event(
            "endpoint.state", uid=row.uid, namespace=row.namespace, pod=row.pod, identity=row.identity,
            before=before.state, state=row.state, binding=row.binding,
        )  # fmt: skip
