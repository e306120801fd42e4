"""Flows and denials as Hubble's exporter writes them (hubble-wire.md 4.1 to 4.3), with our own facts beside. Pure.

What Hubble has no field for stands under `flow.dagwall`; its readers skip fields that they do not know. Counts of an
interval are there too: one line stands for all packets of a flow since the line before.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from agent.model.flow import Denial, EndpointFacts, Flow, PeerKind, PeerName
from agent.model.identity import Claim, Identity, Kind
from agent.model.verdict import Direction, DropReason, Verdict
from agent.outputs.words import protocol_name, readable, reason_name, sentence, socket_text

MAX_LINE_BYTES = 64 * 1024
"""With its end of line: what `hubble observe --input-file` reads at most."""
_CUT_TEXT = 64

VERDICTS = {Verdict.ALLOW: "FORWARDED", Verdict.DENY: "DROPPED", Verdict.AUDIT: "AUDIT"}
DROP_REASONS: dict[DropReason, tuple[int, str]] = {
    DropReason.NONE: (0, "DROP_REASON_UNKNOWN"),
    DropReason.NO_RULE: (133, "POLICY_DENIED"),
    DropReason.DENY_RULE: (181, "POLICY_DENY"),
    DropReason.UNKNOWN_PEER: (133, "POLICY_DENIED"),
    DropReason.PENDING: (203, "DROP_EP_NOT_READY"),
    DropReason.QUARANTINED: (171, "INVALID_IDENTITY"),
    DropReason.FRAGMENT: (157, "IP_FRAGMENTATION_NOT_SUPPORTED"),
    DropReason.SOURCE_ROUTE: (134, "INVALID_PACKET_DROPPED"),
    DropReason.INVALID_PACKET: (134, "INVALID_PACKET_DROPPED"),
    DropReason.RAW_SOCKET: (133, "POLICY_DENIED"),
    DropReason.NOT_A_REPLY: (133, "POLICY_DENIED"),
    DropReason.AGENT_GONE: (202, "DROP_HOST_NOT_READY"),
    DropReason.NOT_READY: (202, "DROP_HOST_NOT_READY"),
    DropReason.SOCKET_FAMILY: (133, "POLICY_DENIED"),
    DropReason.LOOPBACK: (132, "INVALID_SOURCE_IP"),
    DropReason.FOREIGN_SOURCE: (132, "INVALID_SOURCE_IP"),
    DropReason.UNKNOWN: (0, "DROP_REASON_UNKNOWN"),
}
"""Hubble's number and name for each of our reasons; ours stands in `dagwall.reason`."""

_RESERVED = {"node": (1, "reserved:host"), "kube-apiserver": (7, "reserved:kube-apiserver")}
_L4 = {6: "TCP", 17: "UDP", 132: "SCTP"}
_ICMP = {1: "ICMPv4", 58: "ICMPv6"}
_NO_CLAIM = Claim(Identity("", "", "", "", "", Kind.OTHER), ())


def line_of(seen: Flow | Denial, node: str, version: str) -> bytes:
    """One line, its end included, never longer than MAX_LINE_BYTES."""
    cluster = seen.endpoint.identity.cluster
    node = f"{cluster}/{node}" if cluster else node
    time = datetime.fromtimestamp(seen.time, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
    flow = {"time": time, "node_name": node, **_flow(seen), "emitter": {"name": "dagwall", "version": version}}
    document = {"flow": flow, "node_name": node, "time": time}
    line = _encoded(document)
    return line if len(line) <= MAX_LINE_BYTES else _encoded(_cut(document))


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _cut(value: Any) -> Any:
    """Every text cut short: nothing that Kubernetes lets pass needs it."""
    if isinstance(value, str):
        return value[:_CUT_TEXT]
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in value.items()}
    return [_cut(each) for each in value] if isinstance(value, list) else value


def _flow(seen: Flow | Denial) -> dict[str, Any]:
    denial = seen if isinstance(seen, Denial) else None
    egress = seen.tuple.direction is Direction.EGRESS
    ours, theirs = _endpoint(seen.endpoint), _peer(seen.peer, seen.tuple.peer.version)
    own = seen.endpoint.namespace, seen.endpoint.pod
    out: dict[str, Any] = {
        "verdict": VERDICTS[seen.verdict],
        "IP": _ip(seen, egress=egress),
        "l4": _l4(seen),
        "source": ours if egress else theirs,
        "destination": theirs if egress else ours,
        "Type": "L3_L4",
        **_event(seen, egress=egress),
        "traffic_direction": seen.tuple.direction.name,
        "is_reply": False,
        "Summary": _summary(seen),
        "dagwall": _ours(seen),
    }
    if denial is not None and denial.cgroup_id:
        out["cgroup_id"] = str(denial.cgroup_id)
    if denial is not None and denial.socket_cookie:
        out["socket_cookie"] = str(denial.socket_cookie)
    if seen.rule:
        verb = "allowed" if seen.verdict is Verdict.ALLOW else "denied"
        out[f"{seen.tuple.direction.name.lower()}_{verb}_by"] = [_policy(seen.rule)]
    if seen.peer.kind is PeerKind.SERVICE:
        namespace, _, name = seen.peer.name.partition("/")
        out["destination_service" if egress else "source_service"] = {"namespace": namespace, "name": name}
    if own == ("", ""):
        out["dagwall"]["stranger"] = True
    return out


def _event(seen: Flow | Denial, *, egress: bool) -> dict[str, Any]:
    """Counts are traces at the endpoint, denials drops, audits policy verdicts (pkg/monitor/api/types.go)."""
    if not isinstance(seen, Denial):
        kind, point = {"type": 4, "sub_type": 5 if egress else 0}, "FROM_ENDPOINT" if egress else "TO_ENDPOINT"
        return {"event_type": kind, "trace_observation_point": point}
    if seen.verdict is Verdict.ALLOW:
        return {"event_type": {"type": 5}}
    number, name = DROP_REASONS[seen.reason]
    kind = {"type": 1, "sub_type": number} if seen.verdict is Verdict.DENY else {"type": 5}
    return {"event_type": kind, "drop_reason": number, "drop_reason_desc": name}


def _endpoint(facts: EndpointFacts) -> dict[str, Any]:
    """Our side. Labels are those that Hubble's users filter by; the ids are not cut as Airflow's own labels are."""
    identity = facts.identity
    labels = [f"k8s:io.kubernetes.pod.namespace={facts.namespace}"]
    labels += [f"k8s:io.cilium.k8s.policy.serviceaccount={identity.service_account}"]
    labels += [f"k8s:{key}={value}" for key, value in _ids(identity)]
    workload = [{"name": identity.dag_id, "kind": "DAG"}] if identity.dag_id else []
    return {
        "identity": facts.number,
        "cluster_name": identity.cluster,
        "namespace": facts.namespace,
        "pod_name": facts.pod,
        "labels": labels,
        **({"workloads": workload} if workload else {}),
    }


def _ids(identity: Identity) -> list[tuple[str, str]]:
    return [(key, value) for key, value in (("dag_id", identity.dag_id), ("task_id", identity.task_id)) if value]


def _peer(peer: PeerName, version: int) -> dict[str, Any]:
    if peer.identity is not None:
        labels = [f"k8s:io.kubernetes.pod.namespace={peer.identity.namespace}"]
        labels += [f"k8s:{key}={value}" for key, value in _ids(peer.identity)]
        return {"namespace": peer.identity.namespace, "labels": labels}
    if peer.kind is PeerKind.SERVICE:
        return {"namespace": peer.name.partition("/")[0], "labels": ["reserved:unmanaged"], "identity": 3}
    if peer.name in _RESERVED:
        number, label = _RESERVED[peer.name]
        return {"identity": number, "labels": [label]}
    if peer.kind is PeerKind.UNKNOWN:
        return {"identity": 0, "labels": ["reserved:unknown"]}
    if peer.kind is PeerKind.CIDR:
        return {"identity": 2, "labels": ["reserved:world", f"cidr:{peer.name}"]}
    return {"identity": 2, "labels": ["reserved:world", f"reserved:world-ipv{version}"]}


def _ip(seen: Flow | Denial, *, egress: bool) -> dict[str, str]:
    """Our own address is left out: the kernel's key does not hold it, the pod's name says more."""
    address = seen.tuple.peer
    if isinstance(seen, Denial) and not seen.hook.has_peer:
        return {}
    return {"destination" if egress else "source": str(address), "ipVersion": f"IPv{address.version}"}


def _l4(seen: Flow | Denial) -> dict[str, Any]:
    """The service's port is the destination's, whoever opened; a client's is known of single denials only."""
    name = _L4.get(seen.tuple.protocol)
    if name is None:
        kind = _ICMP.get(seen.tuple.protocol)
        return {kind: {}} if kind else {}
    ports = {"destination_port": seen.tuple.service_port}
    if isinstance(seen, Denial) and seen.source_port:
        ports = {"source_port": seen.source_port, **ports}
    return {name: ports}


def _policy(rule: str) -> dict[str, Any]:
    """`Kind/namespace/name/rule`, or without the namespace, as RuleRef writes it."""
    kind, *rest = rule.split("/")
    namespaced = kind in ("TaskNetworkPolicy", "NetworkPolicy") and len(rest) >= 3
    namespace, name = (rest[0], rest[1]) if namespaced else ("", rest[0] if rest else kind)
    return {"name": name, "namespace": namespace, "kind": kind}


def _summary(seen: Flow | Denial) -> str:
    if isinstance(seen, Denial):
        return sentence(seen)
    protocol, port = protocol_name(seen.tuple.protocol), seen.tuple.service_port
    counts = seen.counts
    return (
        f"{protocol} {seen.tuple.direction.name.lower()} {socket_text(str(seen.tuple.peer), port)} ({seen.peer}): "
        f"{counts.sent_bytes} B sent, {counts.received_bytes} B received, {counts.connections} connections"
    )


def _ours(seen: Flow | Denial) -> dict[str, Any]:
    facts = seen.endpoint
    identity, claim = facts.identity, facts.claim or _NO_CLAIM
    out: dict[str, Any] = {
        "identity": str(identity),
        "service_account": identity.service_account,
        "kind": identity.kind.value,
        "dag_id": identity.dag_id,
        "task_id": identity.task_id,
        "ambiguous": identity.ambiguous,
        "attestation": facts.attestation.name.lower(),
        "run_id": claim.run_id,
        "try_number": claim.try_number,
        "map_index": claim.map_index,
        "pod_uid": facts.uid,
        "peer": seen.peer.name,
        "peer_kind": seen.peer.kind.value,
        "rule": seen.rule,
        "reason": "",
        "counts": {},
    }
    if isinstance(seen, Denial):
        out |= {"reason": reason_name(seen.reason), "nearest": readable(seen.nearest), "hook": seen.hook.name.lower()}
        if seen.opened_by is not None:
            out["opened_by"] = f"{seen.opened_by.namespace}/{seen.opened_by.pod}"
        out |= {"extra": dict(seen.extra)} if seen.extra else {}
    else:
        counts = seen.counts
        out["new"] = seen.new
        out["counts"] = {
            "sent_packets": counts.sent_packets,
            "sent_bytes": counts.sent_bytes,
            "received_packets": counts.received_packets,
            "received_bytes": counts.received_bytes,
            "connections": counts.connections,
        }
    return out
