"""The kernel's lookup, step by step, over values (want.py): what bpf/ must answer, and what tests ask."""

from __future__ import annotations

from agent.compiler.prefixes import Lpm, host_of
from agent.model.cluster import Address
from agent.model.identity import PodUid
from agent.model.protocol import ORDINARY
from agent.model.verdict import Direction, DropReason, EndpointState, Verdict
from agent.model.want import (
    NO_CLASS,
    PORT_ANY,
    PORT_OTHER,
    Classes,
    PortClass,
    RuleKey,
    RuleValue,
    Want,
    port_index,
)

PASSES = RuleValue(Verdict.ALLOW)


def lookup(  # noqa: PLR0917  the order of the kernel's key
    want: Want, uid: PodUid, direction: Direction, address: Address, protocol: int, port: int = 0
) -> RuleValue:
    """The verdict for a packet of a pod. `port` is the peer's for egress and the pod's own for ingress."""
    assignment = want.assignments[uid]
    if assignment.state is EndpointState.UNMANAGED:
        return PASSES
    if assignment.state is EndpointState.PENDING:
        return RuleValue(Verdict.DENY, DropReason.PENDING)
    if (address.is_loopback and not assignment.host_network) or address in assignment.addresses:
        return PASSES  # by lo: it stays in the pod (P7), for the quarantined too (I5)
    if assignment.state is EndpointState.QUARANTINED:
        return RuleValue(Verdict.DENY, DropReason.QUARANTINED)
    classes = classes_of(want, address)
    fallback = PORT_ANY if protocol in ORDINARY else PORT_OTHER
    mentioned = want.ports.get(port_index(protocol, port), PortClass(0)) or fallback
    for peer_class in (classes.peer, classes.base):
        for port_class in (mentioned, fallback):
            value = want.rules.get(RuleKey(assignment.ruleset, peer_class, port_class, direction))
            if value is not None:
                return value
    return want.rulesets[assignment.ruleset].defaults[direction]


def classes_of(want: Want, address: Address) -> Classes:
    """Exact in `hosts`, else by the longest prefix in `peers`."""
    host = host_of(address)
    exact = want.hosts.get(host)
    return exact if exact is not None else Lpm(want.peers).get(host, Classes(NO_CLASS, NO_CLASS))
