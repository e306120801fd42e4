"""Flows and denials as flat records: what `dagwall flows` and `why` filter, send and show. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from agent.model.flow import Denial, EndpointFacts, FailedLookup, Flow, Outcome
from agent.model.identity import Claim, Identity, Kind
from agent.model.protocol import WITH_PORTS
from agent.model.selector import id_matches
from agent.model.verdict import DropReason, Verdict
from agent.outputs.outcomes import cause_name, detail_name, outcome_text
from agent.outputs.words import lookup_text, nearest_text, protocol_of, reason_name, sentence

_NOBODY = Claim(Identity("", "", "", "", "", Kind.OTHER), ())


@dataclass(frozen=True, slots=True)
class Record:
    """One line of `dagwall flows`. `time` in seconds since the epoch, counts since the record before."""

    kind: str  # flow, denial, lookup (of a name, in vain) or outcome (of a connection that failed)
    time: float
    namespace: str
    pod: str
    service_account: str
    dag_id: str
    task_id: str
    run_id: str
    try_number: str
    map_index: str
    ambiguous: bool
    identity: int
    direction: str
    peer: str
    peer_kind: str
    address: str  # empty where only a socket was asked for
    protocol: str
    port: int  # the peer's for egress, ours for ingress
    verdict: str
    reason: str = ""
    rule: str = ""
    nearest: str = ""
    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    connections: int = 0
    new: bool = False
    opened_by: str = ""
    source_port: int = 0  # of who opened, where it is known
    pid: int = 0  # of the process that called, where it is known
    comm: str = ""  # its thread's name
    detail: str = ""  # of an outcome: an errno's name, a TLS alert's, or an HTTP status
    name: str = ""  # of a lookup: the name that was asked for
    text: str = ""  # of denials and lookups: the sentence
    external_identities: tuple[str, ...] = ()  # who the task is outside of the cluster

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Seen = Flow | Denial | FailedLookup | Outcome


def verdict_of(seen: Seen) -> Verdict:
    """A lookup's question, and a connection that has an outcome, have passed."""
    return Verdict.ALLOW if isinstance(seen, FailedLookup | Outcome) else seen.verdict


def reason_of(seen: Seen) -> str:
    """`no_rule`; of a lookup the answer's code in lower case, such as `nxdomain`; of an outcome its cause."""
    if isinstance(seen, FailedLookup):
        return seen.rcode.lower()
    if isinstance(seen, Outcome):
        return cause_name(seen)
    return reason_name(seen.reason) if seen.reason is not DropReason.NONE else ""


def run_of(seen: Seen) -> str:
    """Id of the DAG's run, or ""."""
    return (seen.endpoint.claim or _NOBODY).run_id


def record_of(seen: Seen) -> Record:
    common: dict[str, Any] = _who(seen.endpoint) | {
        "time": seen.time,
        "direction": seen.tuple.direction.name.lower(),
        "peer": seen.peer.name,
        "peer_kind": seen.peer.kind.value,
        "address": "" if isinstance(seen, Denial) and not seen.hook.has_peer else str(seen.tuple.peer),
        "protocol": protocol_of(seen),
        "port": seen.tuple.service_port,
        "verdict": verdict_of(seen).name.lower(),
        "reason": reason_of(seen),
    }
    if isinstance(seen, FailedLookup):
        return Record(**common, kind="lookup", name=seen.name, text=lookup_text(seen))
    common |= {
        "rule": str(seen.rule or ""),
        "source_port": seen.source_port,
    }
    if isinstance(seen, Outcome):
        called: dict[str, Any] = {
            "pid": seen.pid,
            "comm": seen.comm,
            "detail": detail_name(seen),
            "text": outcome_text(seen),
        }
        return Record(**(common | called), kind="outcome")
    if isinstance(seen, Denial):
        opener = seen.opened_by
        return Record(
            **common,
            kind="denial",
            nearest=nearest_text(seen.nearest),
            opened_by=f"{opener.namespace}/{opener.pod}" if opener else "",
            pid=seen.pid,
            comm=seen.comm,
            text=sentence(seen),
        )
    counts = seen.counts
    return Record(
        **common,
        kind="flow",
        sent_bytes=counts.sent_bytes,
        received_bytes=counts.received_bytes,
        sent_packets=counts.sent_packets,
        received_packets=counts.received_packets,
        connections=counts.connections,
        new=seen.new,
    )


def _who(facts: EndpointFacts) -> dict[str, Any]:
    identity, claim = facts.identity, facts.claim or _NOBODY
    return {
        "namespace": facts.namespace,
        "pod": facts.pod,
        "service_account": identity.service_account,
        "dag_id": identity.dag_id,
        "task_id": identity.task_id,
        "run_id": claim.run_id,
        "try_number": claim.try_number,
        "map_index": claim.map_index,
        "ambiguous": identity.ambiguous,
        "identity": facts.number,
        "external_identities": tuple(str(each) for each in facts.external),
    }


def pod_text(wanted: str, namespace: str, pod: str) -> str:
    """What a pattern of pods is held against: NAME, or NAMESPACE/NAME where it has a slash."""
    return f"{namespace}/{pod}" if "/" in wanted else pod


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty fields let everything through; ids, pods and peers are patterns with `*` (P16)."""

    namespace: str = ""
    dag: str = ""
    task: str = ""
    pod: str = ""
    run: str = ""  # id of the DAG's run
    peer: str = ""  # its name or its address
    verdict: str = ""
    direction: str = ""
    protocol: str = ""  # its name as it is shown, in any case
    port: int = 0  # the peer's for egress, ours for ingress; 0: any
    reason: str = ""  # `no_rule` or `no rule`; a pattern
    since: float = 0.0  # seconds since the epoch
    until: float = 0.0  # the same; 0: no end

    def means(self, namespace: str, dag: str, task: str) -> bool:
        """Whether a task is one of those that are asked for."""
        return (
            (not self.namespace or id_matches(self.namespace, namespace))
            and (not self.dag or id_matches(self.dag, dag))
            and (not self.task or id_matches(self.task, task))
        )

    def means_peer(self, seen: Seen) -> bool:
        """Whether the peer is one of the tasks that are asked for: another's ingress may have denied it (P14)."""
        identity = seen.peer.identity
        return (
            identity is not None
            and not self.run  # a peer's is not known
            and bool(self.namespace or self.dag or self.task or self.pod)
            and (not self.pod or id_matches(self.pod, pod_text(self.pod, identity.namespace, seen.peer.pod)))
            and self.means(identity.namespace, identity.dag_id, identity.task_id)
            and seen.time >= self.since
            and (not self.until or seen.time <= self.until)
        )

    def matches(self, seen: Seen) -> bool:
        identity = seen.endpoint.identity
        return (
            seen.time >= self.since
            and (not self.until or seen.time <= self.until)
            and (not self.protocol or protocol_of(seen).lower() == self.protocol.lower())
            and (not self.port or (seen.tuple.service_port == self.port and seen.tuple.protocol in WITH_PORTS))
            and (not self.reason or id_matches(self.reason.replace(" ", "_"), reason_of(seen)))
            and (not self.verdict or verdict_of(seen).name.lower() == self.verdict)
            and (not self.direction or seen.tuple.direction.name.lower() == self.direction)
            and (not self.pod or id_matches(self.pod, pod_text(self.pod, seen.endpoint.namespace, seen.endpoint.pod)))
            and (not self.run or id_matches(self.run, run_of(seen)))
            and self.means(seen.endpoint.namespace, identity.dag_id, identity.task_id)
            and (
                not self.peer or id_matches(self.peer, seen.peer.name) or id_matches(self.peer, str(seen.tuple.peer))
            )
        )
