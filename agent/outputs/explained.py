"""Why calls failed: reports joined with the snapshot, equal ones folded, the most important first. Pure.

Values only: agent/outputs/why.py has the rows and agent/outputs/advice.py the English.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

from typing_extensions import assert_never

from agent.judge.judge import NATIVE_LAYER, Decision, judge
from agent.model.cluster import Cluster, Pod
from agent.model.flow import NO_ANSWER, Denial, FailedLookup, Outcome, PeerKind
from agent.model.identity import PodUid
from agent.model.nearest import Nearest
from agent.model.policy import PolicyRef
from agent.model.verdict import Cause, Direction, DropReason, Verdict
from agent.outputs.other_end import OtherEnd, other_ends
from agent.outputs.reasons import author_reason, deny_reasons
from agent.outputs.records import Filter
from agent.semantics.selecting import selects

JUDGED = 100
"""So many explanations, the most important ones, are held against the snapshot: the judge walks all of it."""

Failed = Denial | FailedLookup | Outcome


class End(str, Enum):
    """Which end failed the call: OTHER: the pod's call was denied by the ingress of its peer (P14)."""

    OWN = "own"
    OTHER = "other"


class Step(Enum):
    """What to do next."""

    RETRY = "retry"  # the snapshot allows it by now
    ADD_PORT = "add_port"
    BIND = "bind"
    EXACT_ID = "exact_id"
    ENFORCE = "enforce"
    NAME_METADATA = "name_metadata"
    LEAVE_IN = "leave_in"
    ADD_RULE = "add_rule"
    ADD_NATIVE_RULE = "add_native_rule"
    ADD_RULE_THERE = "add_rule_there"
    ASK_AUTHOR = "ask_author"
    CHANGE_CLAIM = "change_claim"
    CHECK_ADDRESS = "check_address"
    CHECK_NODE = "check_node"
    ALLOW_RAW = "allow_raw"
    OTHER_SOCKET = "other_socket"
    CHECK_PACKETS = "check_packets"
    CHECK_HELLO = "check_hello"
    ASK_AGAIN = "ask_again"
    CHECK_NAME = "check_name"
    CHECK_RESOLVER = "check_resolver"
    CHECK_LISTENER = "check_listener"
    CHECK_ROUTE = "check_route"
    CHECK_OTHER_FIREWALLS = "check_other_firewalls"
    CHECK_SERVER = "check_server"
    CHECK_TLS = "check_tls"
    CHECK_CREDENTIALS = "check_credentials"
    CHECK_PERMISSION = "check_permission"
    CHECK_PROXY = "check_proxy"
    SLOW_DOWN = "slow_down"
    BEFORE_ENFORCING = "before_enforcing"  # it passed, in audit


class Weight(IntEnum):
    """How likely an explanation is what somebody looks for; the lowest comes first."""

    DENIED = 0
    FAILED = 1
    ALLOWED_BY_NOW = 2
    WOULD_BE_DENIED = 3
    SEARCH_DOMAIN = 4  # a name as a stub resolver makes it from a search domain


@dataclass(frozen=True, slots=True)
class Explanation:
    """Equal failures of one task. `events` counts those that were reported; the exact totals are the kernel's.

    `now`: what the snapshot decides of the same call; None where it cannot be asked, as of a pod that has gone.
    `others`: what managed pods at the other end decide of it. `isolating`: the policies that leave only what a rule
    allows; none where the namespace's default does.
    """

    newest: Failed
    events: int
    first: float  # seconds since the epoch
    last: float
    end: End = End.OWN
    author_reason: str = ""  # what the deny rule's author wrote
    now: Decision | None = None
    others: tuple[OtherEnd, ...] = ()
    isolating: tuple[PolicyRef, ...] = ()
    steps: tuple[Step, ...] = ()
    weight: Weight = Weight.FAILED


def explanations(failed: Iterable[Failed], wanted: Filter, cluster: Cluster, count: int) -> tuple[Explanation, ...]:
    """`failed` newest first. A denial that is here because its peer is asked for is told as the peer's (P14)."""
    reasons = deny_reasons(cluster)
    folded = sorted(_folded(failed, wanted), key=_order)[:count]
    judged = [_judged(each, cluster) for each in folded[:JUDGED]] + folded[JUDGED:]
    told = (
        replace(each, author_reason=author_reason(each.newest, reasons)) if isinstance(each.newest, Denial) else each
        for each in judged
    )
    return tuple(sorted((replace(each, steps=tuple(_steps(each))) for each in told), key=_order))


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


def denying_ends(each: Explanation) -> tuple[OtherEnd, ...]:
    """Managed pods at the other end that deny it as well, or alone."""
    return tuple(
        other for other in each.others if other.decision is not None and other.decision.verdict is Verdict.DENY
    )


def _steps(each: Explanation) -> Iterator[Step]:
    failed = each.newest
    match failed:
        case FailedLookup():
            yield Step.CHECK_NAME if failed.rcode == "NXDOMAIN" else Step.CHECK_RESOLVER
        case Denial():
            if each.weight is Weight.ALLOWED_BY_NOW:
                yield Step.RETRY
                return
            yield from _of_denial(each, failed)
            if denying_ends(each):
                yield Step.ADD_RULE_THERE
            if failed.verdict is Verdict.AUDIT:
                yield Step.BEFORE_ENFORCING
        case Outcome():
            yield _of_outcome(each, failed)
        case _:
            assert_never(failed)


_OF_CAUSES = {
    Cause.NONE: Step.CHECK_SERVER, Cause.REFUSED: Step.CHECK_LISTENER, Cause.UNREACHABLE: Step.CHECK_ROUTE,
    Cause.SYN_TIMEOUT: Step.CHECK_OTHER_FIREWALLS, Cause.RESET: Step.CHECK_SERVER,
    Cause.CLOSED_EARLY: Step.CHECK_SERVER, Cause.STALLED: Step.CHECK_ROUTE, Cause.TLS_ALERT: Step.CHECK_TLS,
    Cause.HTTP_STATUS: Step.CHECK_SERVER, Cause.UNKNOWN: Step.CHECK_SERVER,
}  # fmt: skip
_OF_STATUSES = {
    401: Step.CHECK_CREDENTIALS, 403: Step.CHECK_PERMISSION, 407: Step.CHECK_PROXY, 429: Step.SLOW_DOWN
}  # fmt: skip


def _of_outcome(each: Explanation, outcome: Outcome) -> Step:
    if outcome.cause is Cause.SYN_TIMEOUT and denying_ends(each):
        return Step.ADD_RULE_THERE
    if outcome.cause is Cause.HTTP_STATUS:
        return _OF_STATUSES.get(outcome.detail, Step.CHECK_SERVER)
    return _OF_CAUSES[outcome.cause]


def _of_denial(each: Explanation, denial: Denial) -> Iterator[Step]:
    match denial.reason:
        case DropReason.NO_RULE:
            native = each.now is not None and each.now.layer == NATIVE_LAYER
            yield from _lacking(denial.nearest) if denial.nearest and not native else _rule(native=native)
        case DropReason.DENY_RULE:
            yield Step.ASK_AUTHOR
        case DropReason.UNKNOWN_PEER:
            yield Step.CHECK_ADDRESS
        case DropReason.QUARANTINED:
            yield Step.CHANGE_CLAIM
        case DropReason.RAW_SOCKET:
            yield Step.ALLOW_RAW
        case DropReason.SOCKET_FAMILY:
            yield Step.OTHER_SOCKET
        case DropReason.NOT_A_REPLY:
            yield Step.ASK_AGAIN
        case (
            DropReason.FRAGMENT | DropReason.SOURCE_ROUTE | DropReason.INVALID_PACKET | DropReason.LOOPBACK
            | DropReason.FOREIGN_SOURCE
        ):  # fmt: skip
            yield Step.CHECK_PACKETS
        case (
            DropReason.NO_TLS | DropReason.NO_SERVER_NAME | DropReason.SERVER_NAME | DropReason.ENCRYPTED_HELLO
            | DropReason.HELLO_TOO_LONG | DropReason.BROKEN_HELLO | DropReason.HELLO_UNSEEN
        ):  # fmt: skip
            yield Step.CHECK_HELLO
        case (
            DropReason.PENDING | DropReason.AGENT_GONE | DropReason.NOT_READY | DropReason.NONE | DropReason.UNKNOWN
        ):  # fmt: skip
            yield Step.CHECK_NODE
        case _:
            assert_never(denial.reason)


def _rule(*, native: bool) -> Iterator[Step]:
    yield Step.ADD_NATIVE_RULE if native else Step.ADD_RULE


def _lacking(nearest: Nearest) -> Iterator[Step]:
    lacks = nearest.lacks
    for step, lacking in (
        (Step.BIND, lacks.attestation is not None),
        (Step.EXACT_ID, lacks.exact_id),
        (Step.ENFORCE, lacks.enforcement),
        (Step.ADD_PORT, lacks.protocol is not None),
        (Step.NAME_METADATA, lacks.metadata),
        (Step.LEAVE_IN, lacks.left_out is not None),
    ):
        if lacking:
            yield step
