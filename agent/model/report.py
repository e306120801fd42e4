"""The agent's report about itself: the same nouns and numbers for CLI, metrics and readiness (R3)."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.flow import EndpointFacts


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
    state: str  # pending, managed, unmanaged, quarantined
    identity: str  # "" where none
    number: int
    ruleset: int
    slot: int
    cgroup_ids: tuple[int, ...]
    settled_by: str = ""  # what classified it as unmanaged, where it was not the snapshot
    escapes: tuple[str, ...] = ()  # why the kernel cannot hold it (L8)
    contradictions: tuple[str, ...] = ()  # where the pod's claims contradict each other (I2) or a binding (I5)
    attestation: str = ""  # what the claim is worth (I4)
    binding: str = ""  # the TaskIdentityBinding that vouches for the claim, or that it contradicts
    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    try_number: str = ""
    map_index: str = ""


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """One identity and its exact totals since the programs were first loaded."""

    number: int
    namespace: str
    service_account: str
    dag_id: str
    task_id: str
    kind: str
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
    reason: str
    rule: str
    direction: str
    verdict: str  # deny or audit
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """The node at one moment. `problems` make the agent not ready; `notices` are for people."""

    version: str
    node: str
    ready: bool
    problems: tuple[str, ...]
    notices: tuple[str, ...]
    revision: int  # of the newest snapshot
    programmed: int  # of the snapshot that is in the maps
    complete: bool
    posture: str
    on_agent_loss: str
    kernel: str
    bcc: str
    features: tuple[tuple[str, bool], ...]
    hooks: tuple[HookState, ...]
    maps: tuple[MapFill, ...]
    endpoints: tuple[tuple[str, int], ...]  # by state
    policies: int
    network_policies: int
    bindings: int
    losses: tuple[tuple[str, int], ...]
    object_errors: tuple[str, ...]  # invalid objects, one sentence each
    unenforceable: tuple[str, ...]  # pods that the kernel cannot hold, with the reason (L8)
    contradicting: int  # pods whose claims contradict each other or a binding
    outside: tuple[str, ...]  # containers outside the pods' roots: no program sees them
    started: float  # seconds since the epoch
    enforcing_after_seconds: float  # from the start of the process to the last attachment
    not_covered: tuple[str, ...] = ()  # ways out that no program sees on this node (S6)
    pins_were_gone: bool = False  # at this agent's start, though one had enforced here since the boot
    resident_bytes: int = 0
    pins: str = ""  # where this agent pins
    repaired: int = 0  # entries of maps that were not as written, since the agent's start
    stale_seconds: float = 0.0  # since the source was last up to date; 0 when it is
    without_events: tuple[str, ...] = ()  # folders are found by looking, because the kernel gives no events of them


@dataclass(frozen=True, slots=True)
class View:
    """What readers in other threads see: replaced as a whole, never changed."""

    status: Status
    endpoints: tuple[EndpointRow, ...] = ()
    identities: tuple[IdentityRow, ...] = ()
    denials: tuple[DenialRow, ...] = ()
    facts: tuple[EndpointFacts, ...] = ()
