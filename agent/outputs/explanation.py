"""What an explanation of a failed call holds: values, which other modules fill and put into words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from agent.judge.judge import Decision
from agent.model.flow import Denial, FailedLookup, Outcome
from agent.model.policy import PolicyRef
from agent.model.verdict import Verdict
from agent.outputs.other_end import OtherEnd

Failed = Denial | FailedLookup | Outcome


class End(str, Enum):
    """Which end failed the call: OTHER: the pod's call was denied by the ingress of its peer (P14)."""

    OWN = "own"
    OTHER = "other"


class Step(Enum):
    """What to do next."""

    RETRY = "retry"  # the snapshot allows it by now
    ADD_PORT = "add_port"
    BIND = "bind"
    EXACT_ID = "exact_id"
    ENFORCE = "enforce"
    NAME_METADATA = "name_metadata"
    LEAVE_IN = "leave_in"
    ADD_RULE = "add_rule"
    ADD_NATIVE_RULE = "add_native_rule"
    ADD_RULE_THERE = "add_rule_there"
    ASK_AUTHOR = "ask_author"
    CHANGE_CLAIM = "change_claim"
    CHECK_ADDRESS = "check_address"
    CHECK_NODE = "check_node"
    ALLOW_RAW = "allow_raw"
    OTHER_SOCKET = "other_socket"
    CHECK_PACKETS = "check_packets"
    CHECK_HELLO = "check_hello"
    CHECK_REQUEST = "check_request"
    ASK_AGAIN = "ask_again"
    CHECK_NAME = "check_name"
    CHECK_RESOLVER = "check_resolver"
    CHECK_LISTENER = "check_listener"
    CHECK_ROUTE = "check_route"
    CHECK_OTHER_FIREWALLS = "check_other_firewalls"
    CHECK_SERVER = "check_server"
    CHECK_TLS = "check_tls"
    CHECK_CREDENTIALS = "check_credentials"
    CHECK_PERMISSION = "check_permission"
    CHECK_PROXY = "check_proxy"
    SLOW_DOWN = "slow_down"
    BEFORE_ENFORCING = "before_enforcing"  # it passed, in audit


class Weight(IntEnum):
    """How likely an explanation is what somebody looks for; the lowest comes first."""

    DENIED = 0
    FAILED = 1
    ALLOWED_BY_NOW = 2
    WOULD_BE_DENIED = 3
    SEARCH_DOMAIN = 4  # a name as a stub resolver makes it from a search domain


@dataclass(frozen=True, slots=True)
class Explanation:
    """Equal failures of one task. `events` counts those that were reported; the exact totals are the kernel's.

    `now`: what the snapshot decides of the same call; None where it cannot be asked, as of a pod that has gone.
    `others`: what managed pods at the other end decide of it. `isolating`: the policies that leave only what a rule
    allows; none where the namespace's default does.
    """

    newest: Failed
    events: int
    first: float  # seconds since the epoch
    last: float
    end: End = End.OWN
    author_reason: str = ""  # what the deny rule's author wrote
    now: Decision | None = None
    others: tuple[OtherEnd, ...] = ()
    isolating: tuple[PolicyRef, ...] = ()
    steps: tuple[Step, ...] = ()
    weight: Weight = Weight.FAILED

    @property
    def denying_ends(self) -> tuple[OtherEnd, ...]:
        """Managed pods at the other end that deny it as well, or alone."""
        return tuple(
            other for other in self.others if other.decision is not None and other.decision.verdict is Verdict.DENY
        )
