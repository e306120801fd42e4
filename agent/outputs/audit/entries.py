"""What the audit log says: denials, and what differs from one report to the next, as flat records. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Cluster, Namespace
from agent.model.flow import Denial
from agent.model.network_policy import NetworkPolicy
from agent.model.node_state import NodeState
from agent.model.policy import Policy, PolicyRef
from agent.model.report import EndpointRow
from agent.model.validated import ValidatedPolicy, Written
from agent.model.verdict import EndpointState
from agent.outputs.plain import plain
from agent.outputs.records import record_of

Entry = dict[str, Any]
Item = Policy | NetworkPolicy | TaskIdentityBinding
_OF_FLOWS = {"kind", "time", "new", "sent_bytes", "received_bytes", "sent_packets", "received_packets", "connections"}


def of_denial(seen: Denial) -> Entry:
    """The nouns of `dagwall flows -o json`, with the pod's uid and the hook."""
    said = {name: value for name, value in record_of(seen).as_dict().items() if name not in _OF_FLOWS}
    more = {"pod_uid": seen.endpoint.uid, "hook": seen.hook.name.lower()}
    return {"kind": "denial", "at": seen.time, **said, **more}


def of_start(state: NodeState, found: Mapping[str, Any]) -> Entry:
    """`found`: what of the log is not as an agent leaves it that is stopped."""
    facts, settings = state.facts, state.cluster.settings
    return {
        "kind": "agent_start", "version": facts.version, "kernel": facts.kernel, "source": facts.source,
        "posture": "audit" if settings.audit_everything else "enforce",
        "default_posture": settings.default_posture.value, "on_agent_loss": facts.on_agent_loss,
        "features": dict(facts.features), "pins_were_gone": facts.pins_were_gone,
        "links_were_lost": list(facts.links_were_lost), **found,
    }  # fmt: skip


def differences(before: NodeState | None, now: NodeState) -> Iterator[Entry]:
    """From no report: all that is in force."""
    old = before.cluster if before else Cluster()
    yield from _of_policies(old, now.cluster, {each.ref: each for each in now.validated})
    if old.namespaces is not now.cluster.namespaces:
        yield from _of_namespaces(old, now.cluster)
    if before is None or before.endpoints is not now.endpoints:
        yield from _of_endpoints(before.endpoints if before else {}, now.endpoints)
    yield from _of_hooks(before, now)


def _of_policies(old: Cluster, now: Cluster, validated: Mapping[PolicyRef, ValidatedPolicy]) -> Iterator[Entry]:
    pairs: tuple[tuple[Mapping[Any, Item], Mapping[Any, Item]], ...] = (
        (old.policies, now.policies), (old.network_policies, now.network_policies), (old.bindings, now.bindings)
    )  # fmt: skip
    for before, after in pairs:
        if before is after:
            continue
        for ref in sorted({*before, *after}, key=str):
            if before.get(ref) != after.get(ref):
                named = ref if isinstance(ref, PolicyRef) else PolicyRef("", "TaskIdentityBinding", str(ref))
                yield _of_policy(named, before.get(ref), after.get(ref), now.revision, validated.get(named))


def _of_policy(
    ref: PolicyRef, before: Item | None, after: Item | None, revision: int, known: ValidatedPolicy | None
) -> Entry:
    written = known.written if known else Written()
    change = "came" if before is None else "went" if after is None else "changed"
    old, new = _rules(before), _rules(after)
    rules = {name: (old.get(name), new.get(name)) for name in (*old, *new)}
    return {
        "kind": "policy", "policy": str(ref), "change": change, "revision": revision,
        "generation": known.valid if known else 0, "resource_version": written.resource_version,
        "manager": written.manager if after is not None else "", "operation": written.operation,
        "written_at": written.time,
        "rules": [{"rule": name, "before": a, "after": b} for name, (a, b) in rules.items() if a != b],
    }  # fmt: skip


def _rules(item: Item | None) -> Entry:
    """By name, where a rule has one, else by its place; what is no rule by its field."""
    if item is None:
        return {}
    out: Entry = {}
    for field, value in plain(item).items():
        if field in ("egress", "ingress", "deny") and isinstance(value, list):
            out |= {field: "isolated"} if field != "deny" else {}
            out |= {f"{field}/{each.get('name') or number}": each for number, each in enumerate(value)}
        elif field not in ("ref", "name") and value is not None:
            out[field] = value
    return out


def _of_namespaces(old: Cluster, now: Cluster) -> Iterator[Entry]:
    for name in sorted({*old.namespaces, *now.namespaces}):
        before, after = _posture(old.namespaces.get(name)), _posture(now.namespaces.get(name))
        if before != after:
            yield {"kind": "posture", "namespace": name, "before": before, "after": after}


def _posture(namespace: Namespace | None) -> Entry | None:
    if namespace is None or not namespace.managed:
        return None
    return {"default_posture": plain(namespace.default_posture), "baseline": plain(namespace.baseline)}


def _of_endpoints(before: Mapping[Any, EndpointRow], now: Mapping[Any, EndpointRow]) -> Iterator[Entry]:
    for uid, row in now.items():
        old = before.get(uid)
        if row.state is EndpointState.QUARANTINED and (old is None or old.state is not row.state):
            yield {
                "kind": "quarantine",
                **_who(row),
                "binding": row.binding,
                "why": [str(e) for e in row.contradictions],
            }
        elif old is not None and old.state is EndpointState.QUARANTINED and row.state is not old.state:
            yield {"kind": "quarantine_end", **_who(row), "state": row.state.name.lower()}
        if row.state is EndpointState.MANAGED and _bound(row) != (_bound(old) if old else None):
            yield {"kind": "identity", **_who(row), **_bound(row)}
    for uid, row in before.items():
        if uid not in now and row.state.has_rules:
            yield {"kind": "identity_end", **_who(row)}


def _who(row: EndpointRow) -> Entry:
    return {
        "namespace": row.namespace, "pod": row.pod, "pod_uid": row.uid, "identity": row.identity,
        "number": row.number, "dag_id": row.dag_id, "task_id": row.task_id, "run_id": row.run_id,
        "try_number": row.try_number, "map_index": row.map_index,
    }  # fmt: skip


def _bound(row: EndpointRow) -> Entry:
    return {
        "attestation": row.attestation.name.lower() if row.attestation else "", "binding": row.binding,
        "policies": [str(ref) for ref in row.policies], "escapes": [str(each) for each in row.escapes],
        "external_identities": [str(each) for each in row.external],
    }  # fmt: skip


def _of_hooks(before: NodeState | None, now: NodeState) -> Iterator[Entry]:
    was = {(hook.hook, hook.root): hook.attached for hook in before.status.hooks} if before else {}
    for hook in now.status.hooks:
        if was.get((hook.hook, hook.root), True) != hook.attached:
            yield {"kind": "attach" if hook.attached else "detach", "hook": hook.hook, "root": hook.root}
    gone = set(was) - {(hook.hook, hook.root) for hook in now.status.hooks}
    yield from ({"kind": "detach", "hook": name, "root": root} for name, root in sorted(gone) if was[(name, root)])
