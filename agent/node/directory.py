"""Endpoints as values for the other threads, kept up by what changed: one pod costs the work of one pod."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from immutables import Map

from agent.flows.join import Context
from agent.model.classify import Classified
from agent.model.cluster import Cluster, Pod
from agent.model.external import ExternalIdentity
from agent.model.flow import EndpointFacts
from agent.model.identity import Claim, Identity, Kind, PodUid
from agent.model.report import EndpointRow
from agent.model.verdict import EndpointState
from agent.node.news import log_state
from agent.sync.endpoints import Endpoint
from agent.sync.writer import Writer

HELD_BY_LSM = frozenset({"NET_RAW"})
"""With socket_create, the capability is good for nothing but raw IP sockets, whose packets are judged."""
_NO_CLAIM = Claim(Identity("", "", "", "", "", Kind.OTHER), ())


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where an endpoint stands in the maps below."""

    slot: int
    folders: frozenset[int]
    facts: EndpointFacts


@dataclass(slots=True)
class EndpointDirectory:
    """Written by one thread; the maps are immutable, and others may hold on to them.

    held: ways to escape against which this kernel has a means (L8).
    """

    node: str
    held: frozenset[str] = frozenset()
    by_slot: Map[int, EndpointFacts] = field(default_factory=Map)
    by_cgroup: Map[int, EndpointFacts] = field(default_factory=Map)
    rows: Map[PodUid, EndpointRow] = field(default_factory=Map)  # of endpoints with a folder
    changed: dict[int, EndpointFacts] = field(default_factory=dict)  # by slot: what the last `update` has changed
    contradicting: list[EndpointRow] = field(default_factory=list)  # whose claims contradict since the last `update`
    _entries: dict[PodUid, _Entry] = field(default_factory=dict)

    def update(self, uids: Collection[PodUid], writer: Writer, classified: Mapping[PodUid, Classified]) -> None:
        """`uids`: every endpoint of which anything may have changed, those that have gone among them."""
        endpoints = writer.endpoints.by_uid
        self.changed, self.contradicting = {}, []
        slots, cgroups, rows = self.by_slot.mutate(), self.by_cgroup.mutate(), self.rows.mutate()
        for entry in [self._entries.pop(uid) for uid in uids if uid in self._entries]:
            slots.pop(entry.slot, None)
            for folder in entry.folders:
                cgroups.pop(folder, None)
        for uid in uids:
            endpoint = endpoints.get(uid)
            before = rows.pop(uid, None)
            if endpoint is not None and endpoint.folders:
                rows[uid] = row = endpoint_row(endpoint, writer, classified.get(uid), self.held)
                if before is not None:
                    log_state(before, row)
                known = before and (before.contradictions, before.state)
                if row.contradictions and known != (row.contradictions, row.state):
                    self.contradicting.append(row)
            facts = facts_of(endpoint, writer, self.node) if endpoint is not None else None
            if endpoint is None or facts is None:
                continue
            self._entries[uid] = _Entry(endpoint.slot, frozenset(endpoint.folders), facts)
            cgroups.update(dict.fromkeys(endpoint.folders, facts))
            if endpoint.slot:
                slots[endpoint.slot] = self.changed[endpoint.slot] = facts
        self.by_slot, self.by_cgroup, self.rows = slots.finish(), cgroups.finish(), rows.finish()

    def context(self, writer: Writer) -> Context:
        numbers = writer.endpoints.numbers.snapshot()
        return Context(writer.cluster, self.by_slot, self.by_cgroup, writer.compiler.rule_refs, self.node, numbers)


def endpoint_row(
    endpoint: Endpoint, writer: Writer, classified: Classified | None, held: frozenset[str]
) -> EndpointRow:
    """An endpoint for people. `classified`: who it is where no snapshot has it."""
    pod, assignment = writer.cluster.pods.get(endpoint.uid), endpoint.assignment
    claim = pod.claim if pod is not None else _NO_CLAIM
    known = assignment is not None and assignment.state is not EndpointState.UNMANAGED
    namespace = classified.namespace if classified is not None else ""
    against = (assignment.contradiction,) if assignment is not None and assignment.contradiction else ()
    return EndpointRow(
        uid=endpoint.uid,
        namespace=pod.namespace if pod is not None else namespace,
        pod=pod.name if pod is not None else classified.name if classified is not None else "",
        state=writer.endpoints.state_of(endpoint),
        identity=str(assignment.identity) if assignment is not None and known else "",
        number=endpoint.number or 0,
        ruleset=assignment.ruleset if assignment is not None else 0,
        slot=endpoint.slot,
        cgroup_ids=tuple(sorted(endpoint.folders)),
        classified_by=classified.by if classified is not None and (pod is None or classified.unclassified) else None,
        escapes=tuple(each for each in pod.escapes if each.way not in held) if pod is not None else (),
        contradictions=claim.contradictions + against,
        attestation=assignment.attestation if assignment is not None and known else None,
        policies=assignment.policies if assignment is not None and pod is not None else (),
        binding=assignment.binding if assignment is not None else "",
        dag_id=claim.identity.dag_id,
        task_id=claim.identity.task_id,
        run_id=claim.run_id,
        try_number=claim.try_number,
        map_index=claim.map_index,
        external=_external(pod, assignment.identity, writer.cluster) if assignment is not None and known else (),
    )


def facts_of(endpoint: Endpoint, writer: Writer, node: str) -> EndpointFacts | None:
    """What reports say of an endpoint; None while nobody knows it."""
    if endpoint.assignment is None:
        return None
    pod = writer.cluster.pods.get(endpoint.uid)
    return EndpointFacts(
        identity=endpoint.assignment.identity,
        number=endpoint.number or 0,
        namespace=endpoint.assignment.identity.namespace,
        pod=pod.name if pod else "",
        uid=endpoint.uid,
        claim=pod.claim if pod else None,
        node=node,
        attestation=endpoint.assignment.attestation,
        addresses=pod.addresses if pod else endpoint.assignment.addresses,
        slot=endpoint.slot,
        external=_external(pod, endpoint.assignment.identity, writer.cluster),
    )


def _external(pod: Pod | None, identity: Identity, cluster: Cluster) -> tuple[ExternalIdentity, ...]:
    account = cluster.service_accounts.get((identity.namespace, identity.service_account))
    found = (*(account.external if account else ()), *(pod.external if pod else ()))
    return tuple(dict.fromkeys(found))
