"""Names of the rules that nobody has written: what reports show where one of them decides."""

from __future__ import annotations

from agent.model.policy import PolicyRef, RuleRef

NODE_TO_OWN_PODS = RuleRef(PolicyRef("", "builtin", ""), "node-to-own-pods")
"""The node reaches its own pods (P8)."""

AGENT_METRICS = RuleRef(PolicyRef("", "builtin", ""), "agent-metrics")
"""Denies what would show a task who talks to whom (S3), where nothing speaks about it."""

OBSERVED = RuleRef(PolicyRef("", "default-posture", ""), "observe")
"""No policy speaks about it, and the namespace's default is to allow and record (P5)."""


def baseline_ref(entity: str) -> RuleRef:
    """What a task needs to be a task (P6)."""
    return RuleRef(PolicyRef("", "baseline", ""), entity)
