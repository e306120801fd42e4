"""The kernel's lookup, step by step, over values (want.py): what bpf/ must answer, and what tests ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.compiler.names import classes_of_name, servers_of_name, tunnel_bits
from agent.compiler.parts import requests_of
from agent.compiler.prefixes import Lpm, host_of
from agent.model.cluster import Address
from agent.model.identity import PodUid
from agent.model.request import Carried, Request
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
    carries: Carried | None = None,
) -> RuleValue:
    """The verdict for a packet of a pod. `port` is the peer's for egress and the pod's own for ingress. `names`: by
    which the pod's identity knows the address. `carries`: what its connection does; None: nothing yet."""
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
    if carries is not None:
        return _held(want, assignment.ruleset, found, by_name, carries)
    return lifted(found, max(by_name, key=_rank, default=None)) if found.lift else found


def lifted(found: RuleValue, by_name: RuleValue | None) -> RuleValue:
    """What a verdict on an address becomes; `by_name`: the best verdict on its names."""
    if by_name is None or _rank(by_name) <= _rank(found):
        stays = found.lift is Lift.BY_NAME or found.demands
        return replace(found, rule=found.rule if stays else NO_RULE_ID, lift=Lift.NONE)
    if found.lift is Lift.BY_NAME:
        return by_name
    verdict, reason = Verdict.ALLOW, DropReason.NONE
    if found.lift is Lift.TO_AUDIT:
        verdict, reason = Verdict.AUDIT, DropReason.DENY_RULE
    return replace(by_name, verdict=verdict, reason=reason, rule=found.rule)


def _rank(row: RuleValue) -> int:
    """What demands nothing comes before what does."""
    return 2 * _BY_OPENNESS.index(row.verdict) + (not row.demands)


def _held(want: Want, ruleset: RulesetId, found: RuleValue, by_name: list[RuleValue], carries: Carried) -> RuleValue:
    """Each row by itself, held against what is carried; then the best. What that has failed gives the reason."""
    steps = list(_steps(want, ruleset, carries))
    fits = steps[-1][0]
    rows = [found, *by_name]
    after = [row if not row.demands or _asked(row, carries) & fits else _failed(row) for row in rows]
    best = max(after[1:], key=_rank, default=None)
    out = lifted(after[0], best) if found.lift else after[0]
    failed = {new.verdict for old, new in zip(rows, after, strict=True) if new is not old}
    if out.verdict not in failed:
        return out
    blamed = next((row.rule for row in rows if row.demands), NO_RULE_ID)
    return replace(out, reason=_reason([_asked(row, carries) for row in rows], carries, steps), rule=blamed)


def _asked(row: RuleValue, carries: Carried) -> int:
    return row.requests if isinstance(carries, Request) else row.hellos


def _steps(want: Want, ruleset: RulesetId, carries: Carried) -> Iterator[tuple[int, DropReason]]:
    """The bits that are left step by step, and why it fails where none is left."""
    if isinstance(carries, Request):
        bits = requests_of(want.servers, want.parts, ruleset, carries)
        yield bits, carries.fault or DropReason.REQUEST
        if carries.inside is not None:
            named, fits = tunnel_bits(servers_of_name(want.servers, ruleset, carries.inside.name), carries.inside)
            yield bits & named, carries.inside.fault or carries.inside.unknown
            yield bits & fits, DropReason.ENCRYPTED_HELLO
        return
    servers = servers_of_name(want.servers, ruleset, carries.name)
    bits = 0 if carries.fault else servers.named if carries.name else servers.nameless
    yield bits, carries.fault or carries.unknown
    bits &= servers.start_tls if carries.start_tls else ~servers.start_tls
    yield bits, DropReason.START_TLS
    yield bits & servers.encrypted if carries.encrypted else bits, DropReason.ENCRYPTED_HELLO


def _reason(asked: list[int], carries: Carried, steps: list[tuple[int, DropReason]]) -> DropReason:
    if not any(asked):
        return DropReason.NO_TLS if isinstance(carries, Request) else DropReason.NO_HTTP
    return next(reason for bits, reason in steps if not any(each & bits for each in asked))


def _failed(row: RuleValue) -> RuleValue:
    verdict = Verdict.AUDIT if row.audits_hello else Verdict.DENY
    return replace(row, verdict=verdict, hellos=0, requests=0)


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
