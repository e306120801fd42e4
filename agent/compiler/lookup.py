"""The kernel's lookup, step by step, over values (want.py): what bpf/ must answer, and what tests ask."""

from __future__ import annotations

from dataclasses import replace

from agent.compiler.names import classes_of_name
from agent.compiler.prefixes import Lpm, host_of
from agent.model.cluster import Address
from agent.model.identity import PodUid
from agent.model.verdict import Direction, DropReason, EndpointState, Verdict
from agent.model.want import (
    NO_CLASS,
    NO_RULE_ID,
    PORT_BITS,
    Classes,
    Lift,
    PeerClass,
    RuleKey,
    RulesetId,
    RuleValue,
    Want,
    port_index,
)

PASSES = RuleValue(Verdict.ALLOW)
_BY_OPENNESS = (Verdict.DENY, Verdict.AUDIT, Verdict.ALLOW)


def lookup(  # noqa: PLR0917  the order of the kernel's key
    want: Want,
    uid: PodUid,
    direction: Direction,
    address: Address,
    protocol: int,
    port: int = 0,
    names: frozenset[str] = frozenset(),
) -> RuleValue:
    """The verdict for a packet of a pod. `port` is the peer's for egress and the pod's own for ingress. `names`: by
    which the pod's identity knows the address."""
    assignment = want.assignments[uid]
    if assignment.state is EndpointState.UNMANAGED:
        return PASSES
    if assignment.state is EndpointState.PENDING:
        return RuleValue(Verdict.DENY, DropReason.PENDING)
    if (address.is_loopback and not assignment.host_network) or address in assignment.addresses:
        return PASSES  # by lo: it stays in the pod (P7), for the quarantined too (I5)
    if assignment.state is EndpointState.QUARANTINED:
        return RuleValue(Verdict.DENY, DropReason.QUARANTINED)
    found = _rule(want, assignment.ruleset, classes_of(want, address), direction, protocol, port)
    if found.lift is Lift.NONE:
        return found
    known = (classes_of_name(want.names, name) for name in sorted(names))
    rows = (
        _row(want, assignment.ruleset, each.peer, direction, protocol, port) for each in known if each is not None
    )
    by_name = [row for row in rows if row is not None]
    return lifted(found, max(by_name, key=lambda each: _BY_OPENNESS.index(each.verdict), default=None))


def lifted(found: RuleValue, by_name: RuleValue | None) -> RuleValue:
    """What a verdict on an address becomes; `by_name`: the best verdict on its names."""
    if by_name is None or _BY_OPENNESS.index(by_name.verdict) <= _BY_OPENNESS.index(found.verdict):
        return replace(found, rule=found.rule if found.lift is Lift.BY_NAME else NO_RULE_ID, lift=Lift.NONE)
    if found.lift is Lift.TO_AUDIT:
        return RuleValue(Verdict.AUDIT, DropReason.DENY_RULE, found.rule)
    return RuleValue(Verdict.ALLOW, rule=found.rule) if found.lift is Lift.TO_ALLOW else by_name


def _rule(  # noqa: PLR0917  as lookup
    want: Want, ruleset: RulesetId, classes: Classes, direction: Direction, protocol: int, port: int
) -> RuleValue:
    rows = (_row(want, ruleset, each, direction, protocol, port) for each in (classes.peer, classes.base))
    return next((row for row in rows if row is not None), want.rulesets[ruleset].defaults[direction])


def _row(  # noqa: PLR0917  as lookup
    want: Want, ruleset: RulesetId, peer_class: PeerClass, direction: Direction, protocol: int, port: int
) -> RuleValue | None:
    index = port_index(protocol, port)
    around = ((index >> free << free, PORT_BITS - free) for free in range(PORT_BITS + 1))
    keys = (RuleKey(ruleset, peer_class, direction, prefix) for prefix in around)
    return next((want.rules[key] for key in keys if key in want.rules), None)


def classes_of(want: Want, address: Address) -> Classes:
    """Exact in `hosts`, else by the longest prefix in `peers`."""
    host = host_of(address)
    exact = want.hosts.get(host)
    return exact if exact is not None else Lpm(want.peers).get(host, Classes(NO_CLASS, NO_CLASS))
