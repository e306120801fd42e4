"""Why calls failed: reports joined with the snapshot, equal ones folded, the most important first. Pure.

Values only (agent/outputs/explanation.py): agent/outputs/why.py has the rows and agent/outputs/advice.py the English.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from typing_extensions import assert_never

from agent.judge.judge import Decision, judge
from agent.model.cluster import Cluster, Pod
from agent.model.flow import NO_ANSWER, Denial, FailedLookup, Outcome, PeerKind
from agent.model.identity import PodUid
from agent.model.policy import PolicyRef
from agent.model.verdict import Cause, Direction, DropReason, Verdict
from agent.outputs.explanation import End, Explanation, Failed, Weight
from agent.outputs.other_end import OtherEnd, other_ends
from agent.outputs.reasons import author_reason, deny_reasons
from agent.outputs.records import Filter
from agent.outputs.steps import steps_of
from agent.semantics.selecting import selects

JUDGED = 100
"""So many explanations, the most important ones, are held against the snapshot: the judge walks all of it."""


def explanations(failed: Iterable[Failed], wanted: Filter, cluster: Cluster, count: int) -> tuple[Explanation, ...]:
    """`failed` newest first. A denial that is here because its peer is asked for is told as the peer's (P14)."""
    reasons = deny_reasons(cluster)
    folded = sorted(_folded(failed, wanted), key=_order)[:count]
    judged = [_judged(each, cluster) for each in folded[:JUDGED]] + folded[JUDGED:]
    told = (
        replace(each, author_reason=author_reason(each.newest, reasons)) if isinstance(each.newest, Denial) else each
        for each in judged
    )
    return tuple(sorted((replace(each, steps=tuple(steps_of(each))) for each in told), key=_order))


def _order(each: Explanation) -> tuple[int, float]:
    return each.weight, -each.last


def _folded(failed: Iterable[Failed], wanted: Filter) -> list[Explanation]:
    found = list(failed)
    in_vain = {(each.endpoint.uid, each.name) for each in found if isinstance(each, FailedLookup)}
    wholes = [(each, _asked_for(each, in_vain) if isinstance(each, FailedLookup) else each) for each in found]
    tried = {whole.endpoint.uid + whole.name for each, whole in wholes if isinstance(whole, FailedLookup)
             and each is not whole}  # fmt: skip
    groups: dict[tuple[object, ...], Explanation] = {}
    for each, whole in wholes:
        end = End.OWN if wanted.matches(each) else End.OTHER
        key = (end, whole.endpoint.identity, *_kind(whole))
        known = groups.get(key)
        if known is None:
            groups[key] = Explanation(whole, 1, each.time, each.time, end, weight=_weight(whole, tried))
        else:
            first, last = min(known.first, each.time), max(known.last, each.time)
            groups[key] = replace(known, events=known.events + 1, first=first, last=last)
    return list(groups.values())


def _kind(failed: Failed) -> tuple[object, ...]:
    match failed:
        case Denial():
            return (
                failed.verdict, failed.reason, failed.rule, failed.tuple, failed.family,
                failed.peer.identity,
            )  # fmt: skip
        case FailedLookup():
            return (failed.name, failed.rcode) if failed.rcode != NO_ANSWER else (failed.rcode, failed.server)
        case Outcome():
            answer = failed.detail if failed.cause in (Cause.TLS_ALERT, Cause.HTTP_STATUS) else 0
            return failed.cause, answer, failed.tuple, failed.peer.name
        case _:
            assert_never(failed)


def _asked_for(lookup: FailedLookup, in_vain: set[tuple[str, str]]) -> FailedLookup:
    """With the name that the task asked for, where that was asked in vain too: by its search domains a stub resolver
    makes four of it.
    """
    name = lookup.name
    while "." in name:
        name = name.rpartition(".")[0]
        if (lookup.endpoint.uid, name) in in_vain:
            return replace(lookup, name=name)
    return lookup


def _weight(failed: Failed, tried: set[str]) -> Weight:
    """`tried`: names that were asked for with search domains too, each after its pod's uid."""
    match failed:
        case Denial():
            return Weight.DENIED if failed.verdict is Verdict.DENY else Weight.WOULD_BE_DENIED
        case FailedLookup():
            is_own = f".{failed.endpoint.namespace}.svc." in failed.name
            is_whole = failed.endpoint.uid + failed.name in tried
            return Weight.SEARCH_DOMAIN if is_own and not is_whole else Weight.FAILED
        case Outcome():
            return Weight.FAILED
        case _:
            assert_never(failed)


def _judged(each: Explanation, cluster: Cluster) -> Explanation:
    """With what the snapshot decides of it, at both ends."""
    failed = each.newest
    pod = cluster.pods.get(PodUid(failed.endpoint.uid))
    if isinstance(failed, FailedLookup) or pod is None or (isinstance(failed, Denial) and not failed.hook.has_peer):
        return each
    flow = failed.tuple
    names = frozenset({failed.peer.name} if failed.peer.kind is PeerKind.FQDN else ())
    now = judge(cluster, pod, flow.direction, flow.peer, flow.protocol, flow.service_port, names=names)
    others = tuple(other_ends(cluster, pod, flow.direction, flow.peer, flow.protocol, flow.service_port))
    weight = each.weight
    if (
        isinstance(failed, Denial)
        and weight is Weight.DENIED
        and _is_for_policies(failed)
        and _all_allow(now, others)
    ):
        weight = Weight.ALLOWED_BY_NOW
    return replace(each, now=now, others=others, isolating=_isolating(cluster, pod, flow.direction), weight=weight)


def _isolating(cluster: Cluster, pod: Pod, direction: Direction) -> tuple[PolicyRef, ...]:
    namespace, labels = cluster.namespaces.get(pod.namespace), dict(pod.claim.labels)
    return tuple(
        ref
        for ref, policy in sorted(cluster.policies.items())
        if namespace is not None
        and policy.speaks_about(direction) is not None
        and selects(policy, pod, labels, namespace)
    )


def _is_for_policies(denial: Denial) -> bool:
    """Not about a packet's headers, nor the node's state: policies decided it, and would again."""
    return denial.reason in (
        DropReason.NO_RULE, DropReason.DENY_RULE, DropReason.UNKNOWN_PEER, DropReason.QUARANTINED
    )  # fmt: skip


def _all_allow(now: Decision, others: tuple[OtherEnd, ...]) -> bool:
    decisions = [now, *(other.decision for other in others if other.decision is not None)]
    return all(decision.verdict is not Verdict.DENY for decision in decisions)
