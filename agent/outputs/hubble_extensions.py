"""What Hubble has no field for, in a flow's `extensions`. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from typing_extensions import assert_never

from agent.model.flow import Denial, EndpointFacts, Flow, Outcome
from agent.model.identity import Claim, Identity, Kind
from agent.model.verdict import DropReason, Verdict
from agent.outputs.outcomes import detail_name
from agent.outputs.records import reason_of, verdict_of
from agent.outputs.words import nearest_text, reason_name

Object = dict[str, Any]
_NO_CLAIM = Claim(Identity("", "", "", "", "", Kind.OTHER), ())


def of_endpoint(facts: EndpointFacts) -> Object:
    identity, claim = facts.identity, facts.claim or _NO_CLAIM
    return {
        "identity": str(identity),
        "number": facts.number,
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
        **({"external_identities": [str(each) for each in facts.external]} if facts.external else {}),
    }


def extensions_of(seen: Flow | Denial | Outcome) -> Object:
    facts = seen.endpoint
    out: Object = of_endpoint(facts) | {
        "peer": seen.peer.name,
        "peer_kind": seen.peer.kind.value,
        "verdict": verdict_of(seen).name.lower(),
        "rule": str(seen.rule or ""),
        "reason": reason_of(seen) or (reason_name(DropReason.NONE) if verdict_of(seen) is not Verdict.ALLOW else ""),
    }
    if not facts.namespace and not facts.pod:
        out["stranger"] = True
    match seen:
        case Denial():
            return out | _of_denial(seen)
        case Outcome():
            return out | _of_outcome(seen)
        case Flow():
            return out | _of_flow(seen)
        case _:
            assert_never(seen)


def _of_denial(seen: Denial) -> Object:
    out: Object = {"nearest": nearest_text(seen.nearest), "hook": seen.hook.name.lower()}
    out |= {"pid": seen.pid, "comm": seen.comm} if seen.pid else {}
    if seen.opened_by is not None:
        out["opened_by"] = f"{seen.opened_by.namespace}/{seen.opened_by.pod}"
    return out | ({"extra": {"contradiction": str(seen.contradiction)}} if seen.contradiction else {})


def _of_outcome(seen: Outcome) -> Object:
    """Times in seconds."""
    timing = {name: value for name, value in asdict(seen.timing).items() if value is not None}
    return {"detail": detail_name(seen), "pid": seen.pid, "comm": seen.comm, "timing": timing}


def _of_flow(seen: Flow) -> Object:
    counts = seen.counts
    return {
        "new": seen.new,
        "counts": {
            "sent_packets": counts.sent_packets,
            "sent_bytes": counts.sent_bytes,
            "received_packets": counts.received_packets,
            "received_bytes": counts.received_bytes,
            "connections": counts.connections,
        },
    }
