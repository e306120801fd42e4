"""Packed records of the kernel as values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.abi.names import server_of
from agent.abi.structs import (
    CALL,
    DENIAL,
    DENIAL_KEY,
    DNS_ANSWER,
    EVENT,
    FLOW,
    FLOW_KEY,
    GREETING,
    HELLO_EVENT,
    IDENTITY_COUNTS,
    IDENTITY_TOTALS,
    OUTCOME,
    REQUEST_EVENT,
    unpack_address,
)
from agent.model.cluster import Address
from agent.model.flow import FlowCounts, Tuple
from agent.model.request import Request
from agent.model.verdict import Cause, Direction, DropReason, EventKind, Hook, Verdict

_COUNTERS = tuple(IDENTITY_COUNTS.fields)
TOTALS_WORDS = IDENTITY_TOTALS.size // 8


@dataclass(frozen=True, slots=True)
class RawFlow:
    """One entry of `flows`. `last` and `first` are jiffies, low 32 bits; counts are since the entry was made."""

    cgroup_id: int
    tuple: Tuple
    client_port: int
    slot: int
    identity: int
    rule: int
    verdict: Verdict
    reason: DropReason
    first: int
    last: int
    counts: FlowCounts


def decode_flow(key: bytes, value: bytes) -> RawFlow:
    k, v = FLOW_KEY.unpack(key), FLOW.unpack(value)
    return RawFlow(
        cgroup_id=k["cgroup_id"],
        tuple=Tuple(unpack_address(k["peer"]), k["protocol"], k["service_port"], Direction(k["direction"])),
        client_port=k["client_port"],
        slot=v["slot"],
        identity=v["identity"],
        rule=v["rule"],
        verdict=Verdict(v["verdict"]),
        reason=DropReason(v["reason"]),
        first=v["first"],
        last=v["last"],
        counts=FlowCounts(
            v["sent_packets"], v["sent_bytes"], v["received_packets"], v["received_bytes"], v["connections"]
        ),
    )


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One record of the ring buffer. `time_ns` is CLOCK_MONOTONIC; zero ids where the hook does not know them."""

    kind: EventKind
    hook: Hook
    time_ns: int
    cgroup_id: int
    task_cgroup_id: int
    ancestors: tuple[int, ...]
    socket_cookie: int
    peer: Address
    protocol: int
    service_port: int
    client_port: int
    direction: Direction
    verdict: Verdict
    reason: DropReason
    rule: int
    identity: int
    slot: int
    pid: int
    length: int
    family: int  # of a socket, where the hook is SOCKET_CREATE
    comm: str = ""  # of the calling thread where the hook knows it
    request: Request | None = None  # that it is about


def decode_event(data: bytes) -> RawEvent:
    v = dict(EVENT.unpack(data[: EVENT.size]))
    del v["pad"]
    if len(data) == CALL.size:
        v["comm"] = _text(CALL.unpack(data)["comm"])
    if len(data) == REQUEST_EVENT.size:
        v["request"] = _request(data)
    return RawEvent(
        **v
        | {
            "kind": EventKind(v["kind"]),
            "hook": Hook(v["hook"]),
            "peer": unpack_address(v["peer"]),
            "direction": Direction(v["direction"]),
            "verdict": Verdict(v["verdict"]),
            "reason": DropReason(v["reason"]),
        }
    )


def _request(data: bytes) -> Request:
    """As far as it was read before it was denied."""
    v = REQUEST_EVENT.unpack(data)
    method, host, path = (bytes(v[name]).partition(b"\0")[0].decode("latin-1") for name in ("method", "host", "path"))
    return Request(method, host, path, v["port"])


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What a DNS server answered an endpoint: `event` is the packet, `message` as it came, cut after DNS_BYTES."""

    event: RawEvent
    message: bytes


@dataclass(frozen=True, slots=True)
class RawOutcome:
    """What became of a connection: `event` says whose and where to. Times in ns of CLOCK_MONOTONIC, 0: never."""

    event: RawEvent
    cause: Cause
    detail: int
    began_ns: int
    established_ns: int
    answered_ns: int
    round_trip_us: int
    retransmits: int


def _decode_outcome(data: bytes) -> RawOutcome:
    v = OUTCOME.unpack(data)
    event = replace(decode_event(data[: EVENT.size]), comm=_text(v["comm"]))
    return RawOutcome(
        event, Cause(v["cause"]), v["detail"], v["began_ns"], v["established_ns"], v["answered_ns"], v["rtt_us"],
        v["retransmits"],
    )  # fmt: skip


def _text(name: bytes) -> str:
    """A process may give itself any bytes as its name."""
    return bytes(name).partition(b"\0")[0].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class RawHello:
    """For which server an endpoint began a TLS connection."""

    event: RawEvent
    server: str


Record = RawEvent | RawAnswer | RawHello | RawOutcome


def decode_record(data: bytes) -> Record:
    """One record of the ring buffer."""
    kind = EventKind(EVENT.unpack(data[: EVENT.size])["kind"])
    if kind is EventKind.OUTCOME:
        return _decode_outcome(data)
    if kind not in (EventKind.DNS_ANSWER, EventKind.HELLO):
        return decode_event(data)
    event = decode_event(data[: EVENT.size])
    if kind is EventKind.HELLO:
        return RawHello(event, server_of(GREETING.unpack(HELLO_EVENT.unpack(data)["greeting"])["key"]))
    answer = DNS_ANSWER.unpack(data)
    return RawAnswer(event, bytes(answer["message"][: answer["kept"]]))


@dataclass(frozen=True, slots=True)
class RawDenials:
    """One entry of `denials`: exact numbers for a slot, rule and reason."""

    slot: int
    identity: int
    rule: int
    reason: DropReason
    direction: Direction
    verdict: Verdict
    packets: int
    bytes: int


def decode_denials(key: bytes, value: bytes) -> RawDenials:
    k, v = DENIAL_KEY.unpack(key), DENIAL.unpack(value)
    return RawDenials(
        k["slot"], k["identity"], k["rule"], DropReason(k["reason"]), Direction(k["direction"]),
        Verdict(k["verdict"]), v["packets"], v["bytes"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class IdentityCounts:
    """Exact totals of one identity in one direction (who opened), summed over CPUs."""

    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    connections: int = 0
    audited: int = 0
    denied_packets: int = 0
    denied_bytes: int = 0


def decode_totals(words: tuple[int, ...]) -> dict[Direction, IdentityCounts]:
    """`words`: TOTALS_WORDS integers, already summed over CPUs."""
    width = len(_COUNTERS)
    return {d: IdentityCounts(*words[int(d) * width : (int(d) + 1) * width]) for d in Direction}
