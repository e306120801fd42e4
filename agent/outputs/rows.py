"""The local API's rows: a view as JSON can say it. Field names here are what people and scripts read (R3). Pure."""

from __future__ import annotations

from typing import Any

from agent.model.node_state import View
from agent.model.report import DenialRow, EndpointRow
from agent.outputs.latest import problems
from agent.outputs.notices import not_covered, notices
from agent.outputs.plain import plain
from agent.outputs.words import unenforceable_text


def endpoint_record(row: EndpointRow) -> dict[str, Any]:
    record: dict[str, Any] = plain(row)
    by, _, _ = record.pop("classified_by"), record.pop("policies"), record.pop("external")
    return record | {
        "external_identities": [str(each) for each in row.external],
        "settled_by": by or "",
        "attestation": record["attestation"] or "",
        "contradictions": [str(each) for each in row.contradictions],
        "escapes": [str(escape) for escape in row.escapes],
    }


def denial_record(row: DenialRow) -> dict[str, Any]:
    record: dict[str, Any] = plain(row)
    return record | {"rule": str(row.rule or "")}


def status_record(view: View) -> dict[str, Any]:
    """`dagwall status`: one flat object."""
    state, totals = view.state, view.totals
    facts, status, cluster = state.facts, state.status, state.cluster
    found: dict[str, Any] = (
        plain(facts)
        | plain(status)
        | {
            "ready": status.ready,
            "problems": problems(state),
            "notices": notices(state),
            "programmed": cluster.revision,
            "complete": cluster.complete,
            "posture": "audit" if cluster.settings.audit_everything else "enforce",
            "features": list(facts.features.items()),
            "maps": status.fill + totals.fill,
            "endpoints": [(each.name.lower(), count) for each, count in state.by_state().items()],
            "policies": len(cluster.policies),
            "network_policies": len(cluster.network_policies) if cluster.settings.network_policy else 0,
            "bindings": len(cluster.bindings),
            "losses": list(totals.losses.items()),
            "unenforceable": [unenforceable_text(each) for each in state.unenforceable()],
            "contradicting": state.contradicted(),
            "outside": [f"{each.pod}: {each.path}" for each in status.outside],
            "not_covered": not_covered(holds_families=facts.holds_families),
            "resident_bytes": totals.resident_bytes,
        }
    )
    for name in ("fill", "holds_families"):  # in `maps`, in `features`
        del found[name]
    record: dict[str, Any] = plain(found)
    return record
