"""Flows and denials as Hubble's exporter writes them (cilium/api/v1/flow/flow.proto, protojson), one a line. Pure.

As Cilium does, a denial is two lines: the policy verdict (event type 5, which names the policy) and the drop
(type 1); an audit is a policy verdict alone, and the flow that passes under it is forwarded. A flow's line stands for
all of its packets since the line before. What Hubble has no field for, counts among it, stands in `extensions`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import dns.rcode

from agent.model.cluster import Address
from agent.model.flow import NO_ANSWER, Denial, FailedLookup, Flow, Outcome, PeerKind, RuleMatch
from agent.model.policy import RuleRef
from agent.model.protocol import WITH_PORTS, IpProtocol
from agent.model.request import Request
from agent.model.verdict import Direction, Hook, Verdict
from agent.outputs.hubble_ends import own_end, peer_end
from agent.outputs.hubble_extensions import extensions_of, of_endpoint
from agent.outputs.hubble_reasons import DROP_REASONS
from agent.outputs.outcomes import outcome_text
from agent.outputs.words import (
    lookup_text,
    protocol_name,
    request_text,
    sentence,
    socket_text,
)
from agent.text import printable

MAX_LINE_BYTES = 64 * 1024
"""With its end of line: what `hubble observe --input-file` reads at most."""
_CUT_TEXT = 64

_DROP, _TRACE, _POLICY_VERDICT, _L7 = 1, 4, 5, 129  # event types (cilium/pkg/monitor/api/types.go)
_MATCHES = {
    RuleMatch.NONE: 0, RuleMatch.PEER: 1, RuleMatch.PEER_AND_PORT: 2, RuleMatch.PORT: 3, RuleMatch.ALL: 4,
    RuleMatch.PEER_AND_PROTOCOL: 5, RuleMatch.PROTOCOL: 6,
}  # fmt: skip
_L4 = {int(protocol): protocol.name for protocol in WITH_PORTS}
_WITHOUT_PORTS: dict[int, str] = {IpProtocol.ICMP: "ICMPv4", IpProtocol.ICMPV6: "ICMPv6", IpProtocol.IGMP: "IGMP"}
_LINES = uuid.UUID("6d1c3f0e-5f0c-5d5e-9a3b-0b6f0a8c2f11")
_FAILED = {
    "verdict": "ERROR",
    "event_type": {"type": _TRACE, "sub_type": 5},
    "trace_observation_point": "FROM_ENDPOINT",
}
"""Of a connection that was let pass and failed: Cilium has no event for it."""
_STRUCT = "type.googleapis.com/google.protobuf.Struct"

Object = dict[str, Any]
Seen = Flow | Denial | FailedLookup | Outcome


def lines_of(seen: Seen, node: str, version: str) -> list[bytes]:
    """Whole lines, each with its end and never longer than MAX_LINE_BYTES."""
    return [_encoded(document) for document in documents_of(seen, node, version)]


def documents_of(seen: Seen, node: str, version: str) -> list[Object]:
    """What the lines hold, for whoever sends it in another form than JSON."""
    if isinstance(seen, FailedLookup):
        return [_document(seen, _of_lookup(seen), {}, node, version)]
    if isinstance(seen, Outcome):
        return [_document(seen, _common(seen), _FAILED, node, version)]
    request = _request(seen) if isinstance(seen, Denial) else None
    if request is not None and isinstance(seen, Denial):
        return [_document(seen, _common(seen), _of_request(seen, request), node, version)]
    common = _common(seen)
    return [_document(seen, common, event, node, version) for event in _events(seen)]


def lines_in(seen: Seen) -> int:
    """How many lines it makes."""
    if isinstance(seen, Denial) and _request(seen) is not None:
        return 1
    return 2 if isinstance(seen, Denial) and seen.verdict is Verdict.DENY else 1


def _of_lookup(seen: FailedLookup) -> Object:
    """As Cilium's DNS proxy reports an answer: from the server to the pod, on layer 7."""
    ours, server = own_end(seen.endpoint), peer_end(seen.peer, seen.server.peer.version)
    own = _own_address(seen, seen.server.peer)
    asked: Object = {"observation_source": "dagwall"}
    if seen.rcode != NO_ANSWER:
        rcode = int(dns.rcode.from_text(seen.rcode))
        asked |= {"query": f"{seen.name}.", "rcode": rcode, "qtypes": [seen.record]}
    return {
        "verdict": "ERROR" if seen.rcode == NO_ANSWER else "FORWARDED",
        "IP": _ends(str(seen.server.peer), own, seen.server.peer.version),
        "l4": {"UDP": {"source_port": seen.server.service_port}},
        "source": server,
        "destination": ours,
        "Type": "L7",
        "l7": {"type": "RESPONSE", "dns": asked},
        "event_type": {"type": _L7},
        "traffic_direction": "EGRESS",
        "is_reply": True,
        "Summary": printable(f"DNS: {lookup_text(seen)}"),
        "extensions": {"@type": _STRUCT, "value": of_endpoint(seen.endpoint) | {"peer": seen.peer.name}},
    }  # fmt: skip


def _document(seen: Seen, common: Object, event: Object, node: str, version: str) -> Object:
    cluster = seen.endpoint.identity.cluster
    node = f"{cluster}/{node}" if cluster else node
    time = datetime.fromtimestamp(seen.time, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
    emitter = {"name": "dagwall", "version": version}
    flow = {"time": time, "node_name": node, **common, "emitter": emitter} | event
    text = json.dumps(flow)
    flow["uuid"] = str(uuid.uuid5(_LINES, text))  # the same line has the same one, however often it is made
    document = {"flow": flow, "node_name": node, "time": time}
    return document if len(text) < MAX_LINE_BYTES // 2 and "\\ud" not in text else _fitting(document)


def _fitting(document: Object) -> Object:
    """Cut, and without half of a pair of surrogates, where it has to be."""
    if len(_encoded(document)) > MAX_LINE_BYTES:
        document = _each_text(document, lambda text: text[:_CUT_TEXT])
    return _each_text(document, _whole)  # type: ignore[no-any-return]


def _encoded(document: Object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Nothing that Kubernetes lets pass needs it."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(each, change) for key, each in value.items()}
    return [_each_text(each, change) for each in value] if isinstance(value, list) else value


def _whole(text: str) -> str:
    """A lone surrogate, which JSON can escape and protobuf's text and protojson cannot hold, becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _common(seen: Flow | Denial | Outcome) -> Object:
    egress = seen.tuple.direction is Direction.EGRESS
    ours, theirs = own_end(seen.endpoint), peer_end(seen.peer, seen.tuple.peer.version)
    out: Object = {
        "IP": _ip(seen, egress=egress),
        "l4": _l4(seen),
        "source": ours if egress else theirs,
        "destination": theirs if egress else ours,
        "Type": "L3_L4",
        "traffic_direction": seen.tuple.direction.name,
        "is_reply": False,
        "Summary": printable(_summary(seen)),  # Hubble's tables print it as it is
        "extensions": {"@type": _STRUCT, "value": extensions_of(seen)},
    }
    if isinstance(seen, Denial) and seen.cgroup_id:
        out["cgroup_id"] = str(seen.cgroup_id)
    if isinstance(seen, Denial) and seen.socket_cookie:
        out["socket_cookie"] = str(seen.socket_cookie)
    if seen.peer.kind is PeerKind.SERVICE:
        namespace, _, name = seen.peer.name.partition("/")
        out["destination_service" if egress else "source_service"] = {"namespace": namespace, "name": name}
    if seen.peer.kind is PeerKind.FQDN:
        out["destination_names" if egress else "source_names"] = [seen.peer.name]
    return out


def _events(seen: Flow | Denial) -> Iterator[Object]:
    """Verdict and kind of each line."""
    egress = seen.tuple.direction is Direction.EGRESS
    if isinstance(seen, Flow):
        kind = {"type": _TRACE, "sub_type": 5 if egress else 0}
        point = "FROM_ENDPOINT" if egress else "TO_ENDPOINT"
        named = _named(seen) if seen.verdict is Verdict.ALLOW else {}
        yield {"verdict": "FORWARDED", "event_type": kind, "trace_observation_point": point, **named}
        return
    judged = {"event_type": {"type": _POLICY_VERDICT}, "policy_match_type": _MATCHES[seen.match], **_named(seen)}
    if seen.verdict is Verdict.ALLOW:
        yield {"verdict": "FORWARDED", **judged}
    elif seen.verdict is Verdict.AUDIT:
        yield {"verdict": "AUDIT", **judged}
    else:
        number, name = DROP_REASONS[seen.reason]
        dropped = {"verdict": "DROPPED", "drop_reason": number, "drop_reason_desc": name}
        yield {**dropped, **judged}
        yield {**dropped, "event_type": {"type": _DROP, "sub_type": number}}


def _request(seen: Denial) -> Request | None:
    """That it is about, where it was read so far."""
    return seen.request if seen.request is not None and seen.request.method else None


def _of_request(seen: Denial, request: Request) -> Object:
    """As Cilium's HTTP proxy reports a request: on layer 7, one line."""
    _, _, url = request_text(request).partition(" ")
    http = {"method": printable(request.method), "url": printable(url), "protocol": "HTTP/1.1"}
    layer7 = {"Type": "L7", "l7": {"type": "REQUEST", "http": http}, "event_type": {"type": _L7}}
    if seen.verdict is not Verdict.DENY:
        return {"verdict": "AUDIT", **layer7, **_named(seen)}
    number, name = DROP_REASONS[seen.reason]
    return {"verdict": "DROPPED", "drop_reason": number, "drop_reason_desc": name, **layer7, **_named(seen)}


def _named(seen: Flow | Denial) -> Object:
    """The policy of the rule that decided."""
    if not seen.rule:
        return {}
    verb = "allowed" if seen.verdict is Verdict.ALLOW else "denied"
    return {f"{seen.tuple.direction.name.lower()}_{verb}_by": [_policy(seen.rule)]}


def _ip(seen: Flow | Denial | Outcome, *, egress: bool) -> Object:
    """The kernel's key does not hold our address: it is the pod's of the peer's family, and any where a socket has no
    peer yet."""
    address = seen.tuple.peer
    if isinstance(seen, Denial) and not seen.hook.has_peer:
        first = next(iter(seen.endpoint.addresses), None)
        return {"source": str(first), "ipVersion": f"IPv{first.version}"} if first is not None else {}
    own, theirs = _own_address(seen, address), str(address)
    return _ends(own, theirs, address.version) if egress else _ends(theirs, own, address.version)


def _ends(source: str, destination: str, version: int) -> Object:
    """An end that is not known is left out."""
    ends = {"source": source, "destination": destination}
    return {**{end: text for end, text in ends.items() if text}, "ipVersion": f"IPv{version}"}


def _own_address(seen: Seen, peer: Address) -> str:
    return next((str(own) for own in seen.endpoint.addresses if own.version == peer.version), "")


def _l4(seen: Flow | Denial | Outcome) -> Object:
    """The service's port is the destination's, whoever opened; a client's is not known of every flow."""
    name = _L4.get(seen.tuple.protocol)
    if name is None:
        kind = _WITHOUT_PORTS.get(seen.tuple.protocol)
        return {kind: {}} if kind else {}
    ports: Object = {"source_port": seen.source_port} if seen.source_port else {}
    ports["destination_port"] = seen.tuple.service_port
    if isinstance(seen, Denial) and seen.hook is Hook.CONNECT:
        ports["flags"] = {"SYN": True}  # connect() would have sent one
    return {name: ports}


def _policy(rule: RuleRef) -> Object:
    """A rule that nobody wrote, as of the baseline, stands for a policy of its name."""
    ref = rule.policy
    return {"name": ref.name or rule.rule, "namespace": ref.namespace, "kind": ref.kind}


def _summary(seen: Flow | Denial | Outcome) -> str:
    if isinstance(seen, Denial):
        return sentence(seen)
    if isinstance(seen, Outcome):
        return outcome_text(seen)
    protocol, port = protocol_name(seen.tuple.protocol), seen.tuple.service_port
    counts, audited = seen.counts, "would be denied: " if seen.verdict is Verdict.AUDIT else ""
    if seen.tuple.direction is Direction.EGRESS:
        ends = f"to {socket_text(str(seen.tuple.peer), port)} ({seen.peer})"
    else:
        ends = f"from {seen.tuple.peer} ({seen.peer})" + (f" to port {port}" if port else "")
    return (
        f"{audited}{protocol} {ends}: {counts.sent_bytes} B sent, {counts.received_bytes} B received, "
        f"{counts.connections} connections"
    )
