"""`dagwall why`: explanations as rows of JSON and sentences for a DAG's author. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typing_extensions import assert_never

from agent.model.flow import NO_ANSWER, Denial, FailedLookup, Outcome
from agent.model.verdict import DropReason, Verdict
from agent.outputs.advice import advice
from agent.outputs.explanation import End, Explanation, Failed, Weight
from agent.outputs.outcomes import cause_name, outcome_text, timing_text
from agent.outputs.records import record_of
from agent.outputs.words import nearest_text, reason_name, sentence, short_rule


@dataclass(frozen=True, slots=True)
class Why:
    """Equal failures of one task. `events` counts those that were reported; the exact totals are the kernel's."""

    cause: str  # denied, lookup, or what became of a connection: refused, syn_timeout, ...
    namespace: str
    service_account: str
    dag_id: str
    task_id: str
    pod: str  # of the newest, as are run, try, process and text
    run_id: str
    try_number: str
    map_index: str
    pid: int  # as the node numbers it; 0: not known
    comm: str
    identity: int
    verdict: str
    reason: str
    direction: str
    peer: str
    address: str
    protocol: str
    port: int
    detail: str  # an errno, a TLS alert, or an HTTP status
    rule: str
    nearest: str
    layer: str  # of the policies that deny it now: dagwall, NetworkPolicy, or ""
    isolating: tuple[str, ...]  # policies that leave only what a rule allows
    now: str  # what the policies decide of it now; "": they cannot be asked
    other_ends: tuple[dict[str, Any], ...]
    events: int
    first: float
    last: float
    end: str  # own, or other: the pod's call was denied by the ingress of its peer
    text: str
    notes: tuple[str, ...]
    steps: tuple[str, ...]
    next: tuple[str, ...]  # the steps in words


def why_of(each: Explanation) -> Why:
    failed = each.newest
    record = record_of(failed)
    told = dict.fromkeys(("namespace", "service_account", "dag_id", "task_id", "pod", "run_id", "try_number",
                          "map_index", "identity", "verdict", "reason", "direction", "peer", "address", "protocol",
                          "port", "rule", "nearest", "pid", "comm", "detail"))  # fmt: skip
    fields = {name: getattr(record, name) for name in told} | _caller(each)
    return Why(
        **fields,
        cause=_cause(failed),
        layer=each.now.layer if each.now is not None else "",
        isolating=tuple(map(str, each.isolating)),
        now=each.now.verdict.name.lower() if each.now is not None else "",
        other_ends=tuple(_other_ends(each)),
        events=each.events,
        first=each.first,
        last=each.last,
        end=each.end.value,
        text=_text(each),
        notes=tuple(_notes(each)),
        steps=tuple(step.value for step in each.steps),
        next=tuple(advice(each, step) for step in each.steps),
    )


def _cause(failed: Failed) -> str:
    match failed:
        case Denial():
            return "denied"
        case FailedLookup():
            return "lookup"
        case Outcome():
            return cause_name(failed)
        case _:
            assert_never(failed)


def _caller(each: Explanation) -> dict[str, Any]:
    """By whom it was denied stands in the text, whose call it was in the names."""
    failed = each.newest
    caller = failed.peer.identity
    if each.end is End.OWN or caller is None:
        return {}
    return {
        "namespace": caller.namespace, "service_account": caller.service_account, "dag_id": caller.dag_id,
        "task_id": caller.task_id, "pod": failed.peer.pod, "run_id": "", "try_number": "", "map_index": "", "pid": 0,
        "comm": "",
    }  # fmt: skip


def _text(each: Explanation) -> str:
    failed = each.newest
    if isinstance(failed, FailedLookup):
        server = f"{failed.peer} ({failed.server.peer})"
        if failed.rcode == NO_ANSWER:
            return f"no answer: the DNS server {server} was asked and is silent"
        return f"not found: {failed.name}: {server} answered {failed.rcode}"
    if isinstance(failed, Outcome):
        return outcome_text(failed)
    text = sentence(failed, each.author_reason)
    caller = failed.peer.identity
    if each.end is End.OWN or caller is None:
        return text
    own = failed.endpoint
    task = f" ({own.identity.dag_id}/{own.identity.task_id})" if own.identity.dag_id else ""
    return f"at the other end, pod {own.namespace}/{own.pod}{task}: {text}"


def _notes(each: Explanation) -> Iterator[str]:
    """What a colleague adds: whose rules these are, the other end, and what has changed since."""
    failed = each.newest
    if isinstance(failed, Denial) and failed.reason is DropReason.NO_RULE and each.now is not None:
        yield from _isolation(each)
    if isinstance(failed, Outcome):
        timing = timing_text(failed)
        yield (
            "let pass" + (f" by {short_rule(failed.rule)}" if failed.rule else "") + (f"; {timing}" if timing else "")
        )
    for other in each.others:
        where = f"pod {other.pod.namespace}/{other.pod.name}"
        if other.decision is None:
            yield f"the other end, {where}, is managed too, and was not judged: no address of this pod is known"
        elif other.decision.verdict is Verdict.DENY:
            too = " too" if isinstance(failed, Denial) else ""
            rule = f"{short_rule(other.decision.rule)} forbids it" if other.decision.rule else "no rule lets it in"
            nearest = f"; nearest: {nearest_text(other.decision.nearest)}" if other.decision.nearest else ""
            yield f"the other end, {where}, denies it{too}: {rule}{nearest}"
        else:
            yield f"the other end, {where}, lets it in"
    if each.weight is Weight.ALLOWED_BY_NOW and each.now is not None:
        rule = f", by {short_rule(each.now.rule)}" if each.now.rule else ""
        yield f"the policies of now allow it{rule}"
    if each.weight is Weight.SEARCH_DOMAIN:
        yield "perhaps no failure: a resolver tries the search domains of the pod one after the other"


def _isolation(each: Explanation) -> Iterator[str]:
    if each.now is not None and each.now.layer and each.now.layer != "dagwall":
        yield f"a {each.now.layer} isolates the pod"
    elif each.isolating:
        yield f"isolated by {', '.join(map(str, each.isolating))}"
    elif each.weight is not Weight.ALLOWED_BY_NOW:
        yield "no policy selects the pod for this direction: its namespace denies by default"


def _other_ends(each: Explanation) -> Iterator[dict[str, Any]]:
    for other in each.others:
        got = other.decision
        yield {
            "namespace": other.pod.namespace,
            "pod": other.pod.name,
            "dag_id": other.pod.claim.identity.dag_id,
            "task_id": other.pod.claim.identity.task_id,
            "port": other.port,
            "verdict": got.verdict.name.lower() if got is not None else "",
            "reason": reason_name(got.reason) if got is not None and got.reason else "",
            "rule": str(got.rule or "") if got is not None else "",
            "nearest": nearest_text(got.nearest) if got is not None else "",
        }
