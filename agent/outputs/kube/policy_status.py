"""What the status of a policy or a binding should say. Pure: judgements and reports of nodes in, writes out.

No agent knows the cluster, so none pretends to. Each says in a Lease of its own which generations it has programmed
and how many of its pods each policy selects (NodeReport); one of them, by another Lease, adds the reports up and
writes the statuses (server-side apply, field manager `dagwall`). All agents run the same validator on the same
objects, so `Accepted` is that one's own word. `Programmed` is True when every node whose Lease lives has the newest
valid generation in force; its observedGeneration is that generation, so that an invalid newer one does not hide what
holds.

Writes: a status whose conditions changed is written at most every CONDITION_SECONDS, one in which only counts changed
every COUNT_SECONDS, an unchanged one never.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Cluster
from agent.model.policy import Policy, PolicyRef
from agent.model.validated import ValidatedPolicy
from agent.outputs.kube.node_report import NodeReport, digest
from agent.parse.bindings import BINDING_KIND
from agent.text import printable

CONDITION_SECONDS = 5.0
COUNT_SECONDS = 60.0
WRITES = 50
"""At one time; the rest follows."""
MESSAGE = 2000
Status = dict[str, Any]
Counted = Mapping[PolicyRef, int]


def node_report(
    judged: Iterable[ValidatedPolicy], cluster: Cluster, endpoints: Counted, problems: Iterable[str],
    refused: Mapping[PolicyRef, str] | None = None,
) -> NodeReport:  # fmt: skip
    """`cluster`: what the kernel's maps say. A generation is in force where they say the same as it does. `refused`:
    why this node does not take a policy's newest version (P17)."""
    policies = {
        digest(each.ref): (
            each.valid if each.item is not None and _programmed_as(each.ref, cluster) == each.item else 0,
            endpoints.get(each.ref, 0),
        )
        for each in judged
    }
    sentences = {digest(ref): why for ref, why in (refused or {}).items()}
    return NodeReport(policies, "; ".join(problems)[:500], refused=sentences)


def _programmed_as(ref: PolicyRef, cluster: Cluster) -> Policy | TaskIdentityBinding | None:
    return cluster.bindings.get(ref.name) if ref.kind == BINDING_KIND else cluster.policies.get(ref)


def status_of(judged: ValidatedPolicy, reports: Mapping[str, NodeReport], now: str) -> Status:
    """`now`: RFC 3339, for conditions that change; the others keep their time."""
    name = digest(judged.ref)
    have = [
        node
        for node, report in reports.items()
        if not report.problem and report.policies.get(name, (0, 0))[0] == judged.valid
    ]
    conditions = [
        _condition("Accepted", *_accepted(judged), judged.generation),
        _condition("Programmed", *_programmed(judged, reports, have), judged.valid or judged.generation),
    ]
    return {
        "observedGeneration": judged.generation,
        "conditions": [_timed(condition, judged.status, now) for condition in conditions],
        "nodes": len(have) if judged.valid else 0,
        "endpoints": sum(report.policies.get(name, (0, 0))[1] for report in reports.values()),
    }


@dataclass(slots=True)
class StatusWrites:
    """When what may be written. Clock: `now` is monotonic."""

    _tried: dict[PolicyRef, float] = field(default_factory=dict)

    def due(
        self, judged: Iterable[ValidatedPolicy], reports: Mapping[str, NodeReport], now: float, wall: str
    ) -> list[tuple[PolicyRef, Status]]:
        """Statuses that differ from the server's and are not too soon; counted as tried."""
        every = list(judged)
        self._tried = {j.ref: self._tried[j.ref] for j in every if j.ref in self._tried}
        found: list[tuple[PolicyRef, Status]] = []
        for each in every:
            wanted = status_of(each, reports, wall)
            wait = _seconds_between(each.status, wanted)
            if wait is None or self._tried.get(each.ref, float("-inf")) + wait > now:
                continue
            self._tried[each.ref] = now
            found.append((each.ref, wanted))
            if len(found) == WRITES:
                break
        return found


def _accepted(judged: ValidatedPolicy) -> tuple[bool, str, str]:
    if not judged.problem:
        return True, "Valid", "it is valid"
    stays = f"generation {judged.valid} stays in force" if judged.valid else "no generation of it is in force"
    return False, "Invalid", f"{printable(judged.problem)[:MESSAGE]}; {stays}"


def _programmed(judged: ValidatedPolicy, reports: Mapping[str, NodeReport], have: list[str]) -> tuple[bool, str, str]:
    if not judged.valid:
        return False, "NeverValid", "no valid generation is known"
    if not reports:
        return False, "NoNodes", "no node has reported"
    lacking = sorted(
        reports.keys() - set(have), key=lambda node: (digest(judged.ref) not in reports[node].refused, node)
    )
    if not lacking:
        return True, "Programmed", f"generation {judged.valid} is in force on every node with an agent"
    named = "; ".join(_lack(node, reports[node], judged.ref) for node in lacking[:3])
    more = f"; and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    refused = any(digest(judged.ref) in reports[node].refused for node in lacking)
    return False, "Refused" if refused else "Pending", f"generation {judged.valid} is not in force on {named}{more}"


def _lack(node: str, report: NodeReport, ref: PolicyRef) -> str:
    if ref.namespace in report.left_out:
        return f"{node}: namespace has more policies than a node's report can hold"
    why = report.refused.get(digest(ref)) or report.problem
    return f"{node}: {why}" if why else node


def _condition(name: str, holds: bool, reason: str, message: str, generation: int) -> Status:  # noqa: FBT001
    return {
        "type": name, "status": "True" if holds else "False", "reason": reason, "message": printable(message),
        "observedGeneration": generation,
    }  # fmt: skip


def _timed(condition: Status, before: Mapping[str, Any], now: str) -> Status:
    old = dict(_conditions(before)).get(condition["type"], {})
    kept = old.get("lastTransitionTime") if old.get("status") == condition["status"] else None
    return {**condition, "lastTransitionTime": kept or now}


def _conditions(status: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in status.get("conditions") or ():
        if isinstance(each, dict):
            yield str(each.get("type")), each


def _seconds_between(have: Mapping[str, Any], want: Status) -> float | None:
    """How long to wait after the last write; None where there is nothing to write."""
    same = ("observedGeneration",)
    if dict(_conditions(have)) != dict(_conditions(want)) or any(have.get(k) != want[k] for k in same):
        return CONDITION_SECONDS
    return None if all(have.get(k) == want[k] for k in ("nodes", "endpoints")) else COUNT_SECONDS
