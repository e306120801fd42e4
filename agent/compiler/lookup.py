"""The kernel's lookup, step by step, over values (want.py): what bpf/ must answer, and what tests ask."""

from __future__ import annotations

from dataclasses import replace

from agent.compiler.names import classes_of_name, servers_of_name
from agent.compiler.prefixes import Lpm, host_of
from agent.model.cluster import Address
from agent.model.hello import Hello
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
    hello: Hello | None = None,
) -> RuleValue:
    """The verdict for a packet of a pod. `port` is the peer's for egress and the pod's own for ingress. `names`: by
    which the pod's identity knows the address. `hello`: what its connection began with; None: nothing yet."""
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
    known = (classes_of_name(want.names, name) for name in (sorted(names) if found.lift else ()))
    rows = (
        _row(want, assignment.ruleset, each.peer, direction, protocol, port) for each in known if each is not None
    )
    by_name = [row for row in rows if row is not None]
    if hello is not None:
        return _greeted(want, assignment.ruleset, found, by_name, hello)
    return lifted(found, max(by_name, key=_rank, default=None)) if found.lift else found


def lifted(found: RuleValue, by_name: RuleValue | None) -> RuleValue:
    """What a verdict on an address becomes; `by_name`: the best verdict on its names."""
    if by_name is None or _rank(by_name) <= _rank(found):
        stays = found.lift is Lift.BY_NAME or found.hellos
        return replace(found, rule=found.rule if stays else NO_RULE_ID, lift=Lift.NONE)
    if found.lift is Lift.BY_NAME:
        return by_name
    verdict, reason = Verdict.ALLOW, DropReason.NONE
    if found.lift is Lift.TO_AUDIT:
        verdict, reason = Verdict.AUDIT, DropReason.DENY_RULE
    return replace(by_name, verdict=verdict, reason=reason, rule=found.rule)


def _rank(row: RuleValue) -> int:
    """What asks for no hello comes before what does."""
    return 2 * _BY_OPENNESS.index(row.verdict) + (not row.hellos)


def _greeted(want: Want, ruleset: RulesetId, found: RuleValue, by_name: list[RuleValue], hello: Hello) -> RuleValue:
    """Each row by itself, held against the hello; then the best. What a hello has failed gives the reason."""
    servers = servers_of_name(want.servers, ruleset, hello.name)
    bits = 0 if hello.fault else servers.named if hello.name else servers.nameless
    fits = bits & servers.encrypted if hello.encrypted else bits
    rows = [found, *by_name]
    after = [row if not row.hellos or row.hellos & fits else _failed(row) for row in rows]
    best = max(after[1:], key=_rank, default=None)
    out = lifted(after[0], best) if found.lift else after[0]
    failed = {new.verdict for old, new in zip(rows, after, strict=True) if new is not old}
    if out.verdict not in failed:
        return out
    asked = any(row.hellos & bits for row in rows)
    reason = hello.fault or (DropReason.ENCRYPTED_HELLO if asked else hello.unknown)
    return replace(out, reason=reason, rule=next((row.rule for row in rows if row.hellos), NO_RULE_ID))


def _failed(row: RuleValue) -> RuleValue:
    verdict = Verdict.AUDIT if row.audits_hello else Verdict.DENY
    return replace(row, verdict=verdict, hellos=0)


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
