"""English for what became of connections that were let pass. Pure."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from typing_extensions import assert_never

from agent.model.flow import Outcome
from agent.model.verdict import Cause
from agent.outputs.words import where

ALERTS = {
    0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow", 40: "handshake_failure",
    42: "bad_certificate", 43: "unsupported_certificate", 44: "certificate_revoked", 45: "certificate_expired",
    46: "certificate_unknown", 47: "illegal_parameter", 48: "unknown_ca", 49: "access_denied", 50: "decode_error",
    51: "decrypt_error", 70: "protocol_version", 71: "insufficient_security", 80: "internal_error",
    86: "inappropriate_fallback", 90: "user_canceled", 109: "missing_extension", 110: "unsupported_extension",
    112: "unrecognized_name", 113: "bad_certificate_status_response", 115: "unknown_psk_identity",
    116: "certificate_required", 120: "no_application_protocol",
}  # fmt: skip
"""RFC 8446 section 6."""


def cause_name(outcome: Outcome) -> str:
    """`syn_timeout`: the label in metrics, the reason in logs; "" where nothing failed."""
    return outcome.cause.name.lower() if outcome.failed else ""


def detail_name(outcome: Outcome) -> str:
    """`403`, `unknown_ca`, `EHOSTUNREACH`, or ""."""
    match outcome.cause:
        case Cause.HTTP_STATUS:
            return str(outcome.detail)
        case Cause.TLS_ALERT:
            return ALERTS.get(outcome.detail, str(outcome.detail))
        case Cause.UNREACHABLE | Cause.STALLED:
            return _errno(outcome.detail)
        case (
            Cause.NONE | Cause.REFUSED | Cause.SYN_TIMEOUT | Cause.RESET | Cause.CLOSED_EARLY | Cause.UNKNOWN
        ):  # fmt: skip
            return ""
        case _:
            assert_never(outcome.cause)


def _errno(number: int) -> str:
    return errno.errorcode.get(number, "")


def outcome_text(outcome: Outcome) -> str:
    """What a DAG's author reads."""
    return f"{_VERBS[outcome.cause]}: TCP to {where(outcome.tuple)} ({outcome.peer}), {_how(outcome)}"


_VERBS = {
    Cause.NONE: "ended", Cause.REFUSED: "refused", Cause.UNREACHABLE: "unreachable", Cause.SYN_TIMEOUT: "timed out",
    Cause.RESET: "reset", Cause.CLOSED_EARLY: "closed", Cause.STALLED: "stalled", Cause.TLS_ALERT: "TLS alert",
    Cause.HTTP_STATUS: "HTTP", Cause.UNKNOWN: "failed",
}  # fmt: skip


def _how(outcome: Outcome) -> str:
    after = f"after {seconds_text(outcome.timing.lasted)}"
    match outcome.cause:
        case Cause.NONE:
            return f"as connections do, {after}"
        case Cause.REFUSED:
            return "nothing listens there, or a firewall rejects it: RST, or ICMP, in answer to the SYN"
        case Cause.UNREACHABLE:
            return f"{_error(outcome)}: ICMP, or no neighbour, in answer to the SYN"
        case Cause.SYN_TIMEOUT:
            tries, lasted = outcome.timing.retransmits + 1, seconds_text(outcome.timing.lasted)
            return f"no answer to {tries} SYN in {lasted}" + ("" if outcome.detail else ", then the task gave up")
        case Cause.RESET:
            early = "" if outcome.timing.first_byte is not None else ", before a byte of an answer"
            return f"by the peer {after}{early}"
        case Cause.CLOSED_EARLY:
            return f"by the peer {after}, before it sent a byte"
        case Cause.STALLED:
            return f"{_error(outcome)} {after}, {outcome.timing.retransmits} segments sent again"
        case Cause.TLS_ALERT:
            return f"the peer answered {detail_name(outcome)}"
        case Cause.HTTP_STATUS:
            return f"the peer answered {outcome.detail}"
        case Cause.UNKNOWN:
            return "a newer release's programs had a cause that this one does not know"
        case _:
            assert_never(outcome.cause)


def _error(outcome: Outcome) -> str:
    return os.strerror(outcome.detail) if outcome.detail else "no error was recorded"


def seconds_text(seconds: float) -> str:
    """`1.2 ms`, `10.3 s`"""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def timing_text(outcome: Outcome) -> str:
    """`handshake 0.3 ms, first byte after 20.1 ms, round trip 0.3 ms, 2 segments sent again`; "" of nothing."""
    return ", ".join(_timings(outcome))


def _timings(outcome: Outcome) -> Iterator[str]:
    timing = outcome.timing
    if timing.handshake is not None:
        yield f"handshake {seconds_text(timing.handshake)}"
    if timing.first_byte is not None:
        yield f"first byte after {seconds_text(timing.first_byte)}"
    if timing.round_trip is not None:
        yield f"round trip {seconds_text(timing.round_trip)}"
    if timing.handshake is not None and timing.retransmits:
        yield f"{timing.retransmits} segments sent again"
