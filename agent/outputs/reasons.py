"""What authors of deny rules want read when they strike. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent.model.cluster import Cluster
from agent.model.flow import Denial
from agent.model.policy import RuleRef

Reasons = Mapping[RuleRef, str]


def deny_reasons(cluster: Cluster) -> dict[RuleRef, str]:
    """By rule; of those that have a reason."""
    return {
        RuleRef(policy.ref, rule.name): rule.reason
        for policy in cluster.policies.values()
        for rule in policy.deny
        if rule.reason
    }


def author_reason(denial: Denial, reasons: Reasons) -> str:
    """What the deny rule's author wrote; "" where that is nothing."""
    return reasons.get(denial.rule, "") if denial.rule is not None else ""
