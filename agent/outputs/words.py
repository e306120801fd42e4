"""The words for numbers: one spelling of protocols, verdicts and reasons for everything that people read (R3)."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

from agent.model.flow import NO_ANSWER, Denial, FailedLookup, Flow, Outcome, Tuple
from agent.model.nearest import Lacks, Nearest
from agent.model.policy import Demand, HttpMatch, RuleRef, Tls
from agent.model.protocol import WITH_PORTS
from agent.model.report import HookState, Unenforceable
from agent.model.request import CONNECT, Request
from agent.model.verdict import OF_HELLOS, OF_REQUESTS, Direction, DropReason, Hook, Verdict
from agent.parse.fields import joined
from agent.parse.peers import PROTOCOLS
from agent.semantics.paths import shown
from agent.text import printable

_FAMILIES = {int(family): family.name for family in socket.AddressFamily} | {44: "AF_XDP"}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}

WHY = {
    DropReason.NONE: "no reason was recorded",
    DropReason.NO_RULE: "no rule allows it",
    DropReason.DENY_RULE: "a deny rule forbids it",
    DropReason.UNKNOWN_PEER: "no pod or service is known at this address",
    DropReason.PENDING: "the pod was not known yet",
    DropReason.QUARANTINED: "the pod's claim contradicts a binding: it is quarantined",
    DropReason.FRAGMENT: "IP fragments cannot be judged",
    DropReason.SOURCE_ROUTE: "source-routed packets are not allowed",
    DropReason.INVALID_PACKET: "its headers cannot be read",
    DropReason.RAW_SOCKET: "raw sockets need a policy with `rawSockets: true`",
    DropReason.NOT_A_REPLY: "it only looks like an answer: no live flow asked for it",
    DropReason.AGENT_GONE: "the agent is not running and the pod is unknown (--on-agent-loss deny)",
    DropReason.NOT_READY: "the programs are not complete on this node",
    DropReason.SOCKET_FAMILY: "what it sends could not be judged",
    DropReason.LOOPBACK: "a loopback address is reached by the device lo only",
    DropReason.FOREIGN_SOURCE: "its source address is not the pod's",
    DropReason.NO_TLS: "its rule asks for TLS, and what it sent first is no TLS hello",
    DropReason.NO_SERVER_NAME: "its TLS hello has no server name that could be judged",
    DropReason.SERVER_NAME: "no rule allows the server name of its TLS hello",
    DropReason.ENCRYPTED_HELLO: "its TLS hello is encrypted (ECH), and no rule allows that",
    DropReason.HELLO_TOO_LONG: "its TLS hello is too long to be judged before it leaves",
    DropReason.BROKEN_HELLO: "its TLS hello is malformed",
    DropReason.HELLO_UNSEEN: "it is older than the rule that asks for TLS, so nobody has seen its hello",
    DropReason.NO_HTTP: "its rule asks for HTTP/1, and what it sent is no request of it",
    DropReason.REQUEST: "no rule allows this request",
    DropReason.REQUEST_TOO_LONG: "the head of its request is too long to be judged before it leaves",
    DropReason.BARE_LINE_END: "a line of its request ends with CR or LF alone",
    DropReason.FOLDED_HEADER: "a header line of its request goes on in the next line",
    DropReason.SPACE_IN_HEADER: "a header of its request has a space in its name, or between name and colon",
    DropReason.BAD_HEADER: "a header of its request has bytes that no header may have",
    DropReason.REQUEST_LENGTH: "two readers may see the end of its request at different places",
    DropReason.BAD_HOST: "its request has no Host, more than one, or one that is no name",
    DropReason.HOST_DISAGREES: "the Host of its request is not the host of its target",
    DropReason.UPGRADE: "its request asks for another protocol (Upgrade)",
    DropReason.DOT_SEGMENT: "the path of its request has a segment `.` or `..`, or an empty one",
    DropReason.BAD_ESCAPE: "the path of its request has an escape (%) that two readers may resolve differently",
    DropReason.HTTP2: "it speaks HTTP/2 without TLS, which cannot be judged",
    DropReason.BAD_CHUNK: "the body of its request is in chunks that cannot be read",
    DropReason.REQUEST_UNSEEN: "it is older than the rule that asks for HTTP, so nobody has seen what it sent",
    DropReason.SHARED_PAGES: "a request in pages that the task may still change (sendfile, splice, MSG_ZEROCOPY)",
    DropReason.TUNNEL_EARLY: "it sent bytes for a tunnel that the proxy has not opened",
    DropReason.BROKEN_REQUEST: "its request is malformed",
    DropReason.START_TLS: "its rule asks for another way to begin with TLS (startTls)",
    DropReason.UNKNOWN: "a newer release's programs had a reason that this one does not know",
}
"""A clause for each reason that people can read."""

OF_DEMANDS = OF_HELLOS | OF_REQUESTS
"""What the rule that is named allows, where the connection carries something else."""


def demands_text(demands: Iterable[Demand]) -> str:
    """`a TLS hello for a.example or *.b.example, or GET of http://a.example/v1/*`"""
    return ", or ".join(_hello_text(each) if isinstance(each, Tls) else _match_text(each) for each in demands)


def _match_text(match: HttpMatch) -> str:
    methods = joined(match.methods) if match.methods else "a request"
    port = f":{match.port}" if match.port is not None else ""
    inside = f", and in its tunnel {_hello_text(match.inside)}" if match.inside is not None else ""
    return f"{methods} of http://{match.host or '*'}{port}{shown(match.path) or '/*'}{inside}"


def request_text(request: Request) -> str:
    """`GET http://api.internal/v1/jobs`, `CONNECT api.example.org:443`"""
    if request.method == CONNECT:
        return f"{CONNECT} {request.host}:{request.port}"
    port = f":{request.port}" if request.port else ""
    return f"{request.method} http://{request.host}{port}{shown(request.path)}"


def _hello_text(tls: Tls) -> str:
    servers = joined(tls.names) if tls.names else "any server"
    more = [text for holds, text in ((tls.nameless, "without a name"), (tls.encrypted, "encrypted (ECH)")) if holds]
    start = " behind PostgreSQL's SSLRequest" if tls.start_tls else ""
    return f"a TLS hello for {servers}{start}" + (f"; it may be {joined(more)}" if more else "")


_ESCAPES = {
    "NET_RAW": "AF_PACKET frames skip cgroup hooks, and lsm_cgroup is off on this node; drop the capability",
    "privileged": "it can load and remove programs, and leave its cgroup",
}


def unenforceable_text(found: Unenforceable) -> str:
    """`airflow/p: NET_RAW: why`."""
    why = _ESCAPES.get(found.escape.way, "it can reach the node outside of its cgroup")
    return f"{found.namespace}/{found.pod}: {found.escape}: {why}"


def hook_missing(hook: HookState) -> str:
    return f"{hook.hook} is not attached to {hook.root}"


def protocol_name(number: int) -> str:
    return PROTOCOL_NAMES.get(number, f"protocol {number}")


def protocol_of(seen: Flow | Denial | FailedLookup | Outcome) -> str:
    """`TCP`; of a socket that was refused for its family, `AF_PACKET`."""
    if isinstance(seen, Denial) and seen.hook is Hook.SOCKET_CREATE:
        return _FAMILIES.get(seen.family, f"AF_{seen.family}")
    return protocol_name(seen.tuple.protocol)


def reason_name(reason: DropReason) -> str:
    """`no_rule`: the label in metrics, the field in logs."""
    return reason.name.lower()


def where(flow: Tuple) -> str:
    """`192.0.2.9:5432`, `[2001:db8::1]:443`, or the address alone."""
    return socket_text(str(flow.peer), flow.service_port if flow.protocol in WITH_PORTS else 0)


def socket_text(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def short_rule(rule: RuleRef) -> str:
    """`finance-egress/warehouse`; the kind stays where it tells where to look."""
    ref = rule.policy
    return f"{ref.name}/{rule.rule}" if ref.kind == "TaskNetworkPolicy" and ref.namespace else str(rule)


def nearest_text(nearest: Nearest | None) -> str:
    """`finance-egress/warehouse lacks port 5432/TCP`; "" where there is none."""
    return f"{short_rule(nearest.rule)} lacks {' and '.join(_lacks(nearest.lacks))}" if nearest is not None else ""


def _lacks(lacks: Lacks) -> Iterator[str]:
    if lacks.attestation is not None:
        yield f"attestation {lacks.attestation.name.lower()}"
    if lacks.exact_id:
        yield "an exact id: the pod's is known as a hash only"
    if lacks.enforcement:
        yield "posture enforce"
    if lacks.protocol is not None:
        name = protocol_name(lacks.protocol)
        yield f"port {lacks.port}/{name}" if lacks.port else f"protocol {name}"
    if lacks.metadata:
        yield "entity metadata"
    if lacks.left_out is not None:
        yield f"peer {lacks.left_out}, which its `except` leaves out"


def lookup_text(lookup: FailedLookup) -> str:
    """`NXDOMAIN for typo.example (A)`"""
    return "no answer" if lookup.rcode == NO_ANSWER else f"{lookup.rcode} for {lookup.name} ({lookup.record})"


def _what(denial: Denial) -> str:
    flow, protocol = denial.tuple, protocol_of(denial)
    if not denial.hook.has_peer:
        return f"a raw {protocol} socket" if denial.hook is Hook.SOCK_CREATE else f"an {protocol} socket"
    if denial.request is not None and denial.request.method:
        return f"{printable(request_text(denial.request))} to {where(flow)} ({denial.peer})"
    if flow.direction is Direction.EGRESS:
        return f"{protocol} to {where(flow)} ({denial.peer})"
    port = f" to port {flow.service_port}" if flow.protocol in WITH_PORTS else ""
    return f"{protocol} from {flow.peer} ({denial.peer}){port}"


def sentence(denial: Denial, author_reason: str = "") -> str:
    """What a DAG's author reads. `author_reason`: the deny rule's own reason, where it has one."""
    verb = "would be denied" if denial.verdict is Verdict.AUDIT else "denied"
    user = denial.opened_by
    used = f"the socket was used by pod {user.namespace}/{user.pod}" if user is not None else ""
    if denial.verdict is Verdict.ALLOW:  # a connection over a socket that another cgroup's process made (L7)
        return f"allowed: {_what(denial)}, {used or 'the socket was used by a process outside of the pod'}"
    text = f"{verb}: {_what(denial)}"
    why = WHY[denial.reason]
    if denial.reason is DropReason.DENY_RULE and denial.rule:
        why = f"{short_rule(denial.rule)} forbids it"
    if denial.reason in OF_DEMANDS and denial.rule:
        why = f"{why} (rule {short_rule(denial.rule)})"
    if denial.contradiction:
        why = f"{denial.contradiction}: it is quarantined"
    if author_reason:
        why += f": {author_reason}"
    why += f"; {used}" if used else ""
    nearest = f"; nearest: {nearest_text(denial.nearest)}" if denial.nearest else ""
    return f"{text}, {why}{nearest}"
