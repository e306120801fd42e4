"""All checks, in the order in which they are shown. Pure."""

from __future__ import annotations

from agent.cli.doctor import kernel_checks, node_checks
from agent.cli.doctor.facts import Facts
from agent.cli.doctor.finding import Check, Finding

CHECKS: tuple[Check, ...] = (
    kernel_checks.kernel, kernel_checks.rights, kernel_checks.programs, node_checks.cgroups, node_checks.bpffs,
    node_checks.pods, node_checks.network, kernel_checks.types, kernel_checks.features, node_checks.memory,
    node_checks.others,
)  # fmt: skip


def findings(facts: Facts) -> tuple[Finding, ...]:
    """What the facts of a node mean for dagwall, and what to do about it."""
    return tuple(finding for check in CHECKS for finding in check(facts))
