"""Leases (coordination.k8s.io/v1): who writes the statuses, and which nodes live. Pure: objects in, objects out.

Whose the election's Lease is counts by this agent's own clock, as client-go does it: it is free when nobody has
renewed it for its duration since it was last seen to change. A PUT with the resourceVersion that was read is the only
way to it, so that two never both believe it is theirs for longer than the duration.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from agent.outputs.kube.node_report import NodeReport

ELECTION = "dagwall-status"
HOLD_SECONDS, RENEW_SECONDS = 30, 10.0
NODES_A_SECOND = 20
"""All agents together ask and write this often at most, but for renewals: a large cluster waits longer instead."""
NODE_SECONDS, NODE_RENEW_SECONDS = 300, 60.0
"""A node whose Lease is older than this by this node's clock does not count: agents' clocks agree to minutes."""
NODE_LABEL, REPORT = "dagwall.io/lease", "dagwall.io/report"

Lease = dict[str, Any]


@dataclass(slots=True)
class Election:
    """`me` is the node's name: one agent a node, and a new one takes its predecessor's place. `now`: monotonic."""

    me: str
    held_until: float = 0.0
    draw: Callable[[float, float], float] = random.uniform
    _again_at: float = float("-inf")
    _seen: tuple[str, str] = ("", "")
    _seen_at: float = 0.0

    def holds(self, now: float) -> bool:
        return now < self.held_until

    def due(self, now: float) -> bool:
        """Is the Lease to be read, and to be renewed where it is ours?"""
        return now >= self._again_at

    def claim(self, lease: Lease | None, now: float, wall: float) -> Lease | None:
        """What to create (without resourceVersion) or replace; None: it is somebody else's."""
        spec = dict((lease or {}).get("spec") or {})
        holder = str(spec.get("holderIdentity") or "")
        seen = (holder, str(spec.get("renewTime") or ""))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        if holder not in ("", self.me) and now < self._seen_at + HOLD_SECONDS:
            return None
        if holder != self.me:
            spec |= {"acquireTime": micro_time(wall), "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        spec |= {"holderIdentity": self.me, "leaseDurationSeconds": HOLD_SECONDS, "renewTime": micro_time(wall)}
        return {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": dict(lease["metadata"]) if lease else {"name": ELECTION}, "spec": spec,
        }  # fmt: skip

    def answered(self, *, ours: bool, asked_at: float, nodes: int = 1) -> None:
        """The server took the claim, or not. Counted from when it was asked. Who does not have it looks again after a
        while, drawn at random: the more `nodes`, the longer.
        """
        self.held_until = asked_at + HOLD_SECONDS if ours else 0.0
        wait = paced(RENEW_SECONDS, nodes)
        self._again_at = asked_at + (RENEW_SECONDS if ours else self.draw(wait, wait * 1.5))


def paced(seconds: float, nodes: int) -> float:
    """How long each of so many agents waits, so that all of them are no load."""
    return max(seconds, nodes / NODES_A_SECOND)


def node_lease(node: str, uid: str, report: NodeReport, before: Lease | None, wall: float) -> Lease:
    """The node's own Lease with its report. It belongs to the Node of this uid, and goes with it."""
    metadata: dict[str, Any] = dict(before["metadata"]) if before else {"name": node_lease_name(node)}
    metadata["labels"] = {**(metadata.get("labels") or {}), NODE_LABEL: "node"}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), REPORT: report.encode()}
    if uid:
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]
    metadata.pop("managedFields", None)
    spec = {"holderIdentity": node, "leaseDurationSeconds": NODE_SECONDS, "renewTime": micro_time(wall)}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def node_lease_name(node: str) -> str:
    return f"dagwall-node-{node}"[:253]


def living(leases: Iterable[Mapping[str, Any]], wall: float) -> dict[str, NodeReport]:
    """Reports of the nodes whose Lease has not run out; `wall` in seconds since the epoch."""
    found: dict[str, NodeReport] = {}
    for lease in leases:
        spec, annotations = lease.get("spec") or {}, lease.get("metadata", {}).get("annotations") or {}
        renewed = _seconds(str(spec.get("renewTime") or ""))
        report = NodeReport.decode(str(annotations.get(REPORT) or ""))
        node = str(spec.get("holderIdentity") or "")
        if node and report is not None and renewed + NODE_SECONDS > wall:
            found[node] = report
    return found


def micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seconds(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return 0.0
