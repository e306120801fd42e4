"""The agent's report about itself: the same nouns and numbers for CLI, metrics and readiness (R3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.model.binding import Contradiction
from agent.model.classify import ClassifiedBy
from agent.model.cluster import Escape
from agent.model.external import ExternalIdentity
from agent.model.identity import Attestation, Kind
from agent.model.policy import PolicyRef, RuleRef
from agent.model.verdict import Direction, DropReason, EndpointState, Verdict


@dataclass(frozen=True, slots=True)
class MapFill:
    """Entries used and possible, of one kernel map."""

    name: str
    used: int
    entries: int


@dataclass(frozen=True, slots=True)
class HookState:
    """One hook of one root cgroup: attached with our program, or why not."""

    hook: str
    root: str
    attached: bool
    program_id: int
    instructions: int = 0


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """One endpoint of the node."""

    uid: str
    namespace: str
    pod: str
    state: EndpointState
    identity: str  # "" where none
    number: int
    ruleset: int
    slot: int
    cgroup_ids: tuple[int, ...]
    classified_by: ClassifiedBy | None = None  # what classified it as unmanaged, where it was not the snapshot
    escapes: tuple[Escape, ...] = ()  # why the kernel cannot hold it (L8)
    contradictions: tuple[
        str | Contradiction, ...
    ] = ()  # where the pod's claims contradict each other (I2) or a binding (I5)
    attestation: Attestation | None = None  # what the claim is worth (I4)
    policies: tuple[PolicyRef, ...] = ()  # that select it
    binding: str = ""  # the TaskIdentityBinding that vouches for the claim, or that it contradicts
    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    try_number: str = ""
    map_index: str = ""
    external: tuple[ExternalIdentity, ...] = ()  # who it is outside of the cluster, as its operators wrote it


@dataclass(frozen=True, slots=True)
class Unenforceable:
    """A pod that the kernel cannot hold, and why (L8)."""

    namespace: str
    pod: str
    escape: Escape


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """One identity and its exact totals since the programs were first loaded."""

    number: int
    namespace: str
    service_account: str
    dag_id: str
    task_id: str
    kind: Kind
    ambiguous: bool
    endpoints: int
    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    connections: int = 0
    audited: int = 0
    denied_packets: int = 0


@dataclass(frozen=True, slots=True)
class DenialRow:
    """Exact number of denials of one identity for one reason and rule."""

    identity: int
    reason: DropReason
    rule: RuleRef | None
    direction: Direction
    verdict: Verdict  # DENY or AUDIT
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What the kernel's maps and the other threads count: read when somebody asks."""

    identities: tuple[IdentityRow, ...] = ()
    denials: tuple[DenialRow, ...] = ()
    fill: tuple[MapFill, ...] = ()  # of maps that the kernel fills
    losses: Mapping[str, int] = field(default_factory=dict)  # by reason
    resident_bytes: int = 0
