"""`dagwall why`: the last denials of a task, equal ones together, as sentences for a DAG's author. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agent.model.flow import Denial
from agent.outputs.records import record_of
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


def grouped(denials: Iterable[Denial], reasons: Mapping[str, str]) -> tuple[Why, ...]:
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
            groups[key] = _first(denial, reasons)
        else:
            groups[key] = replace(known, events=known.events + 1, first=min(known.first, denial.time))
    return tuple(groups.values())


def _first(denial: Denial, reasons: Mapping[str, str]) -> Why:
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
        text=sentence(denial, reasons.get(denial.rule, "")),
    )
