"""One report of the writing thread about its node, and what readers in other threads see of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.model.cluster import Cluster
from agent.model.flow import EndpointFacts
from agent.model.identity import Identity, IdentityNumber, PodUid
from agent.model.policy import PolicyRef, RuleRef
from agent.model.report import EndpointRow, HookState, MapFill, Totals, Unenforceable
from agent.model.validated import ValidatedPolicy
from agent.model.verdict import EndpointState
from agent.model.want import RuleId

STANDS_STILL_SECONDS = 120.0
"""A writing thread of which nothing came for so long is dead. No revision takes that long, even on a starved node."""


class Topic(str, Enum):
    """What a problem that makes the node not ready is about."""

    KERNEL = "kernel"
    HOOKS = "hooks"
    ROOTS = "roots"
    MAPS = "maps"
    REVISION = "revision"
    OUTSIDE = "outside"
    PENDING = "pending"
    FOLDERS = "folders"
    SOURCE = "source"
    STATE = "state"

    @property
    def concerns_policies(self) -> bool:
        """Every policy. A container outside the pods' roots concerns its own pod only."""
        return self in (Topic.KERNEL, Topic.HOOKS, Topic.ROOTS, Topic.REVISION)


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What stays the same from an agent's start to its end."""

    version: str
    node: str
    source: str  # the name of where it reads the cluster from
    kernel: str
    bcc: str
    features: Mapping[str, bool]  # of the kernel
    pins: str  # where it pins
    on_agent_loss: str
    started: float  # seconds since the epoch
    holds_families: bool = False  # lsm_cgroup refuses sockets that no other hook judges
    pins_were_gone: bool = False  # at this agent's start, though one had enforced here since the boot
    links_were_lost: tuple[str, ...] = ()  # programs that somebody had taken off before this agent's start


@dataclass(frozen=True, slots=True)
class Outside:
    """A container outside the pods' roots: no program sees it."""

    pod: str  # namespace/name, or the uid
    path: str


@dataclass(frozen=True, slots=True)
class Status:
    """What the writing thread knows of its node at one moment."""

    problems: Mapping[Topic, str] = field(default_factory=dict)  # each makes the node not ready
    revision: int = 0  # of the newest snapshot that the source has handed over
    hooks: tuple[HookState, ...] = ()  # every hook on every root
    fill: tuple[MapFill, ...] = ()  # of maps that only the agent writes
    object_errors: tuple[str, ...] = ()  # invalid objects, one sentence each
    outside: tuple[Outside, ...] = ()
    repaired: int = 0  # entries of maps that were not as written, since the agent's start
    stale_seconds: float = 0.0  # since the source could last tell what is new; 0 when it can
    without_events: tuple[str, ...] = ()  # folders are found by looking, because the kernel gives no events of them
    forgotten: tuple[str, ...] = ()  # what of the state folder could not be read
    enforcing_after_seconds: float = 0.0  # from the start of the process to the first attachment

    @property
    def ready(self) -> bool:
        return not self.problems and all(hook.attached for hook in self.hooks)


@dataclass(frozen=True, slots=True)
class NodeState:
    """One report of the writing thread: values only, replaced as a whole.

    `contradicting`, `policy_seconds` and `pending_seconds` are what came up since the report before; whoever takes
    every report sees each of them once.
    """

    facts: AgentFacts
    status: Status = field(default_factory=Status)
    cluster: Cluster = field(default_factory=Cluster)  # the snapshot that the maps say
    endpoints: Mapping[PodUid, EndpointRow] = field(default_factory=dict)  # that have a folder
    by_slot: Mapping[int, EndpointFacts] = field(default_factory=dict)
    rules: Mapping[RuleId, RuleRef] = field(default_factory=dict)
    numbers: Mapping[Identity, IdentityNumber] = field(default_factory=dict)
    validated: tuple[ValidatedPolicy, ...] = ()  # policies and bindings as the source has them, valid or not
    refused: Mapping[PolicyRef, str] = field(default_factory=dict)  # that are too big for this node (P17)
    contradicting: tuple[EndpointRow, ...] = ()  # whose claims contradict each other (I2) or a binding (I5)
    policy_seconds: tuple[float, ...] = ()  # from reading a change to the last write that enforces it
    pending_seconds: tuple[float, ...] = ()  # for which endpoints were pending
    at: float = 0.0  # monotonic

    def by_state(self) -> dict[EndpointState, int]:
        """Endpoints; every state is there."""
        counts = Counter(row.state for row in self.endpoints.values())
        return {state: counts[state] for state in EndpointState}

    def unenforceable(self) -> tuple[Unenforceable, ...]:
        """Of managed pods: the agent must never let one look held that is not (L8)."""
        held = [row for row in self.endpoints.values() if row.state.has_rules]
        return tuple(Unenforceable(row.namespace, row.pod, escape) for row in held for escape in row.escapes)

    def contradicted(self) -> int:
        """Pods whose claims contradict each other or a binding."""
        return sum(bool(row.contradictions) for row in self.endpoints.values())


@dataclass(frozen=True, slots=True)
class View:
    """The newest report with the totals of about the same moment."""

    state: NodeState
    totals: Totals = field(default_factory=Totals)
