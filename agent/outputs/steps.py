"""What to do next about a failed call: from an explanation to its steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import assert_never

from agent.judge.judge import NATIVE_LAYER
from agent.model.flow import Denial, FailedLookup, Outcome
from agent.model.nearest import Nearest
from agent.model.verdict import Cause, DropReason, Verdict
from agent.outputs.explanation import Explanation, Step, Weight


def steps_of(each: Explanation) -> Iterator[Step]:
    """In the order in which to try them."""
    failed = each.newest
    match failed:
        case FailedLookup():
            yield Step.CHECK_NAME if failed.rcode == "NXDOMAIN" else Step.CHECK_RESOLVER
        case Denial():
            if each.weight is Weight.ALLOWED_BY_NOW:
                yield Step.RETRY
                return
            yield from _of_denial(each, failed)
            if each.denying_ends:
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
    if outcome.cause is Cause.SYN_TIMEOUT and each.denying_ends:
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
            | DropReason.HELLO_TOO_LONG | DropReason.BROKEN_HELLO | DropReason.HELLO_UNSEEN | DropReason.START_TLS
        ):  # fmt: skip
            yield Step.CHECK_HELLO
        case (
            DropReason.NO_HTTP | DropReason.REQUEST | DropReason.REQUEST_TOO_LONG | DropReason.BARE_LINE_END
            | DropReason.FOLDED_HEADER | DropReason.SPACE_IN_HEADER | DropReason.BAD_HEADER
            | DropReason.REQUEST_LENGTH | DropReason.BAD_HOST | DropReason.HOST_DISAGREES | DropReason.UPGRADE
            | DropReason.DOT_SEGMENT | DropReason.BAD_ESCAPE | DropReason.HTTP2 | DropReason.BAD_CHUNK
            | DropReason.REQUEST_UNSEEN | DropReason.SHARED_PAGES | DropReason.TUNNEL_EARLY
            | DropReason.BROKEN_REQUEST
        ):  # fmt: skip
            yield Step.CHECK_REQUEST
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
