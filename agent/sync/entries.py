"""Want as packed keys and values."""

from __future__ import annotations

from agent.abi.structs import (
    CLASSES,
    ENDPOINT,
    EPOCH,
    FLAG_AUDIT_SOCKETS,
    FLAG_HOST_NETWORK,
    FLAG_RAW_SOCKETS,
    NEARBY,
    PREFIX,
    RULE,
    RULE_KEY,
    U32,
    U64,
    pack_address,
)
from agent.model.verdict import EndpointState
from agent.model.want import Assignment, Classes, Host, Prefix, RuleKey, Ruleset, RuleValue

NO_PORT_CLASS = U64.pack(value=0)
_DENY_ALL = RULE.pack() * 2


def pack_rule_key(key: RuleKey) -> bytes:
    return RULE_KEY.pack(
        ruleset=key.ruleset, peer_class=key.peer_class, port_class=key.port_class, direction=int(key.direction)
    )


def pack_rule(rule: RuleValue) -> bytes:
    return RULE.pack(rule=rule.rule, verdict=int(rule.verdict), reason=int(rule.reason))


def pack_prefix(prefix: Prefix) -> bytes:
    address, length = prefix
    return PREFIX.pack(length=length, address=pack_address(address))


def pack_host(host: Host) -> bytes:
    return pack_address(host)


def pack_classes(classes: Classes) -> bytes:
    return CLASSES.pack(peer=classes.peer, base=classes.base)


def pack_index(index: int) -> bytes:
    return U32.pack(value=index)


def pack_u64(value: int) -> bytes:
    return U64.pack(value=value)


def pack_endpoint(assignment: Assignment, ruleset: Ruleset | None, number: int, slot: int) -> bytes:
    """Value of `endpoints`. Without a ruleset both directions are denied."""
    flags = FLAG_HOST_NETWORK if assignment.host_network else 0
    if ruleset and ruleset.sockets.raw:
        flags |= FLAG_RAW_SOCKETS
    if ruleset and ruleset.sockets.audit:
        flags |= FLAG_AUDIT_SOCKETS
    return ENDPOINT.pack(
        identity=number,
        ruleset=assignment.ruleset,
        slot=slot,
        state=int(assignment.state),
        flags=flags,
        defaults=b"".join(map(pack_rule, ruleset.defaults)) if ruleset else _DENY_ALL,
    )


def pack_epoch(epoch: int, evicted: int) -> bytes:
    return EPOCH.pack(epoch=epoch, evicted=evicted & 0xFFFFFFFF)


def pack_nearby(cgroup_id: int, state: EndpointState, epoch: int) -> bytes:
    """Value of `nearby`; zeros for an entry that nobody holds."""
    return NEARBY.pack(cgroup_id=cgroup_id, epoch=epoch, state=int(state)) if cgroup_id else NEARBY.pack()
