"""The kinds of peers: what each is called in a rule, how it is read, and what its schema is. One row each.

A kind that this build does not support is here too, so that its name is known and the error names it. What a kind
means is decided by `match` in agent/compiler/terms.py and agent/judge/packet.py: mypy names what lacks a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.model.policy import Entity, EntityPeer, FqdnPeer, Peer
from agent.parse.fields import Field
from agent.parse.peers import Scope, cidr_peer, parse_fqdn, pod_peer, service_peer, task_peer
from agent.parse.schema_words import (
    FQDN_PATTERN,
    MAX_ITEMS,
    Schema,
    all_of,
    any_of,
    dns_name,
    has,
    id_list,
    judged,
    label_selector,
    network,
    not_the_case,
    one_of,
    string,
)


@dataclass(frozen=True, slots=True)
class PeerKind:
    """`parse`: of a field that has `name`, the whole entry of `to` or `from`. `schema`: of what stands under it; its
    argument is whether the policy is a cluster policy. `is_name`: belongs to rules of egress only."""

    name: str
    parse: Callable[[Field, Scope], Peer]
    schema: Callable[[bool], Schema]
    is_name: bool = False


def _entity(field: Field, _: Scope) -> EntityPeer:
    return EntityPeer(field.child("entity").choice(Entity))


def _fqdn(field: Field, scope: Scope) -> FqdnPeer:
    value = field.child("fqdn")
    pattern = parse_fqdn(value)
    if not scope.names:
        raise value.error(
            "belongs to rules of egress only: who asks a DNS server is who opens, and a name denies nothing"
        )
    return FqdnPeer(pattern.lower().rstrip("."))


def _own(cluster: bool) -> str:  # noqa: FBT001  one of a table's functions
    return "Its namespace." if cluster else "Its namespace; the policy's own where absent."


PEER_KINDS = (
    PeerKind(
        "cidr", cidr_peer,
        lambda _: network("Every address of this range but metadata addresses; pods and services included."),
    ),
    PeerKind(
        "fqdn", _fqdn,
        lambda _: string(
            "Addresses that a DNS server gave for this name; '*.' in front means names of one or more labels more.",
            minLength=1, maxLength=254, pattern=FQDN_PATTERN,
        ),
        is_name=True,
    ),
    PeerKind(
        "service", service_peer,
        lambda cluster: judged(
            "A service's addresses at its ports, and its endpoints at their target ports.",
            ("namespace", "name") if cluster else ("name",),
            namespace=dns_name(_own(cluster)), name=dns_name("Its name."),
        ),
    ),
    PeerKind(
        "pods", pod_peer,
        lambda _: judged(
            "Pods by their labels of now.",
            namespaceSelector=label_selector("Their namespaces."), podSelector=label_selector("Their labels."),
        ) | any_of(has("namespaceSelector"), has("podSelector")),
    ),
    PeerKind(
        "tasks", task_peer,
        lambda _: judged(
            "Pods by what they claim to run.",
            namespace=dns_name("Their namespace."), dagIds=id_list("DAGs."), taskIds=id_list("Tasks."),
        ),
    ),
    PeerKind(
        "entity", _entity,
        lambda _: one_of("A peer that every cluster has.", [entity.value for entity in Entity]),
    ),
)  # fmt: skip
_BY_NAME = {kind.name: kind for kind in PEER_KINDS}


def parse_peer(field: Field, scope: Scope) -> Peer:
    """One entry of `to` or `from`: exactly one kind of peer; `except` belongs to `cidr`."""
    keys = [key for key in field.mapping(*_BY_NAME, "except") if key != "except"]
    if len(keys) != 1:
        raise field.error(f"must have exactly one of {', '.join(_BY_NAME)}, not {', '.join(keys) or 'none'}")
    if field.has("except") and keys != ["cidr"]:
        raise field.child("except").error("belongs to cidr only")
    if field.child(keys[0]).absent:
        raise field.child(keys[0]).error("must have a value")
    return _BY_NAME[keys[0]].parse(field, scope)


def peer_schema(*, cluster: bool, names: bool) -> Schema:
    """Of one entry of `to` or `from`; `names`: of egress."""
    kinds = [kind for kind in PEER_KINDS if names or not kind.is_name]
    holes = {
        "type": "array", "description": "Ranges inside the cidr that are left out.",
        "items": network("A range."), "maxItems": MAX_ITEMS,
    }  # fmt: skip
    properties = {kind.name: kind.schema(cluster) for kind in kinds}
    alone = [all_of(has(kind.name), not_the_case(has("except"))) for kind in kinds if kind.name != "cidr"]
    return judged("Exactly one kind of peer.", **properties, **{"except": holes}) | {"oneOf": [has("cidr"), *alone]}
