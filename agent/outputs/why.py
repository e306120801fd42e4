"""`dagwall why`: the last denials of a task, equal ones together, as sentences for a DAG's author. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.model.flow import Denial
from agent.outputs.reasons import Reasons, author_reason
from agent.outputs.records import Filter, record_of
from agent.outputs.words import sentence


@dataclass(frozen=True, slots=True)
class Why:
    """Equal denials of one task. `events` counts those that were reported; the exact totals are the kernel's."""

    namespace: str
    dag_id: str
    task_id: str
    pod: str  # of the newest, as are run, try and text
    run_id: str
    try_number: str
    identity: int
    verdict: str
    reason: str
    direction: str
    peer: str
    address: str
    protocol: str
    port: int
    rule: str
    nearest: str
    events: int
    first: float
    last: float
    text: str
    end: str = "own"  # or "other": the pod's call was denied by the ingress of its peer


def grouped(denials: Iterable[Denial], reasons: Reasons, *, by_peer: bool = False) -> tuple[Why, ...]:
    """`denials` newest first, as is the answer. `reasons`: what authors of deny rules want read, by rule."""
    groups: dict[tuple[object, ...], Why] = {}
    for denial in denials:
        flow = denial.tuple
        key = (
            denial.endpoint.identity, denial.verdict, denial.reason, denial.rule, flow.direction, flow.peer,
            flow.protocol, flow.service_port, denial.family,
        )  # fmt: skip
        known = groups.get(key)
        if known is None:
            first = _first(denial, reasons)
            groups[key] = _of_caller(denial, first) if by_peer else first
        else:
            groups[key] = replace(known, events=known.events + 1, first=min(known.first, denial.time))
    return tuple(groups.values())


def grouped_for(denials: Iterable[Denial], wanted: Filter, reasons: Reasons) -> tuple[Why, ...]:
    """As `grouped`; a denial that is here because its peer is asked for is told as the peer's (P14)."""
    found = list(denials)
    own = grouped((each for each in found if wanted.matches(each)), reasons)
    turned = grouped((each for each in found if not wanted.matches(each)), reasons, by_peer=True)
    return tuple(sorted((*own, *turned), key=lambda why: why.last, reverse=True))


def _of_caller(denial: Denial, why: Why) -> Why:
    """By whom it was denied stands in the text, whose call it was in the names."""
    caller = denial.peer.identity
    if caller is None:
        return why
    other = f"{why.namespace}/{why.pod}" + (f" ({why.dag_id}/{why.task_id})" if why.dag_id else "")
    return replace(
        why, namespace=caller.namespace, dag_id=caller.dag_id, task_id=caller.task_id, pod=denial.peer.pod,
        run_id="", try_number="", end="other", text=f"at the other end, pod {other}: {why.text}",
    )  # fmt: skip


def _first(denial: Denial, reasons: Reasons) -> Why:
    record = record_of(denial)
    return Why(
        namespace=record.namespace,
        dag_id=record.dag_id,
        task_id=record.task_id,
        pod=record.pod,
        run_id=record.run_id,
        try_number=record.try_number,
        identity=record.identity,
        verdict=record.verdict,
        reason=record.reason,
        direction=record.direction,
        peer=record.peer,
        address=record.address,
        protocol=record.protocol,
        port=record.port,
        rule=record.rule,
        nearest=record.nearest,
        events=1,
        first=denial.time,
        last=denial.time,
        text=sentence(denial, author_reason(denial, reasons)),
    )
