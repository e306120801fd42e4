"""Filters of `dagwall flows` by either end: who sent the first packet, and to whom. Pure.

Fields: `from_`, `to_` and a noun of NOUNS; the nouns alone are of either end where Hubble's are, else of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from agent.model.cluster import Address
from agent.model.external import ExternalIdentity
from agent.model.flow import Denial, PeerKind
from agent.model.protocol import WITH_PORTS
from agent.model.selector import id_matches
from agent.model.verdict import Direction, Verdict
from agent.outputs.filtering import Table, Test, Values, any_address, any_port, any_text, one_of
from agent.outputs.records import Seen, pod_text, reason_of, run_of, verdict_of
from agent.outputs.words import protocol_of

NOUNS = ("dag", "task", "namespace", "service_account", "external_identity", "pod", "fqdn", "ip", "port")
EITHER = ("service_account", "fqdn", "ip")
"""Nouns that stand for both ends where they stand alone."""


@dataclass(frozen=True, slots=True)
class Side:
    """One end. What is not known of it is empty, the port of a protocol without ports None."""

    namespace: str
    service_account: str
    dag: str
    task: str
    pod: str
    fqdn: str
    addresses: tuple[Address, ...]
    port: int | None
    external: tuple[ExternalIdentity, ...] = ()

    def texts(self, noun: str) -> tuple[str, ...]:
        """The noun's value, where it has one; of an external identity also without its party."""
        if noun == "external_identity":
            return tuple(text for each in self.external for text in (str(each), each.id))
        value = str(getattr(self, noun))
        return (value,) if value else ()


def task_side(seen: Seen) -> Side:
    """The endpoint's."""
    facts, identity = seen.endpoint, seen.endpoint.identity
    return Side(
        facts.namespace, identity.service_account, identity.dag_id, identity.task_id, facts.pod, "", facts.addresses,
        _port(seen, ours=True), facts.external,
    )  # fmt: skip


def peer_side(seen: Seen) -> Side:
    """The peer's. Of a socket that has none yet, nothing is known."""
    peer, identity = seen.peer, seen.peer.identity
    has_peer = not isinstance(seen, Denial) or seen.hook.has_peer
    namespace = identity.namespace if identity is not None else ""
    if not namespace and peer.kind is PeerKind.SERVICE:
        namespace = peer.name.partition("/")[0]
    return Side(
        namespace=namespace,
        service_account=identity.service_account if identity is not None else "",
        dag=identity.dag_id if identity is not None else "",
        task=identity.task_id if identity is not None else "",
        pod=peer.pod,
        fqdn=peer.name if peer.kind is PeerKind.FQDN else "",
        addresses=(seen.tuple.peer,) if has_peer else (),
        port=_port(seen, ours=False),
    )


def _port(seen: Seen, *, ours: bool) -> int | None:
    """Who opened sends from the client's port, which is 0 where a flow stands for many."""
    if seen.tuple.protocol not in WITH_PORTS:
        return None
    opened = seen.tuple.direction is Direction.EGRESS
    return getattr(seen, "source_port", 0) if ours is opened else seen.tuple.service_port


def from_side(seen: Seen) -> Side:
    return task_side(seen) if seen.tuple.direction is Direction.EGRESS else peer_side(seen)


def to_side(seen: Seen) -> Side:
    return peer_side(seen) if seen.tuple.direction is Direction.EGRESS else task_side(seen)


Sides = Callable[[Seen], Iterable[Side]]


def _pods(values: Values, *, of: Sides) -> Test[Seen]:
    """Patterns of NAME or NAMESPACE/NAME."""
    return lambda seen: any(
        side.pod and id_matches(value, pod_text(value, side.namespace, side.pod))
        for side in of(seen)
        for value in values
    )


def _pattern(text: str) -> Callable[[str], bool]:
    return partial(id_matches, text)


def _dns_name(text: str) -> Callable[[str], bool]:
    return partial(id_matches, text.lower().rstrip("."))


def _texts(seen: Seen, *, of: Sides, noun: str) -> Iterator[str]:
    for side in of(seen):
        yield from side.texts(noun)


def _addresses(seen: Seen, *, of: Sides) -> Iterator[Address]:
    for side in of(seen):
        yield from side.addresses


def _port_of(seen: Seen, *, of: Sides) -> int | None:
    return next((side.port for side in of(seen)), None)


def _made(noun: str, of: Sides) -> Callable[[Values], Test[Seen]]:
    match noun:
        case "ip":
            return any_address(partial(_addresses, of=of))
        case "port":
            return any_port(partial(_port_of, of=of))
        case "pod":
            return partial(_pods, of=of)
        case "fqdn":
            return any_text(_dns_name, partial(_texts, of=of, noun=noun))
        case _:
            return any_text(_pattern, partial(_texts, of=of, noun=noun))


def _service_port(seen: Seen) -> int | None:
    return seen.tuple.service_port if seen.tuple.protocol in WITH_PORTS else None


def _verdicts(values: Values) -> Test[Seen]:
    known = {verdict.name.lower(): verdict for verdict in Verdict}
    if unknown := [value for value in values if value not in known]:
        raise ValueError(f"must be one of {', '.join(known)}, not {unknown[0]!r}")
    return one_of([known[value] for value in values], verdict_of)


def _directions(values: Values) -> Test[Seen]:
    known = {direction.name.lower(): direction for direction in Direction}
    if unknown := [value for value in values if value not in known]:
        raise ValueError(f"must be egress or ingress, not {unknown[0]!r}")
    return one_of([known[value] for value in values], lambda seen: seen.tuple.direction)


def _both(seen: Seen) -> tuple[Side, Side]:
    return task_side(seen), peer_side(seen)


def _task(seen: Seen) -> tuple[Side]:
    return (task_side(seen),)


FIELDS: Table[Seen] = {
    **{f"from_{noun}": _made(noun, lambda seen: (from_side(seen),)) for noun in NOUNS},
    **{f"to_{noun}": _made(noun, lambda seen: (to_side(seen),)) for noun in NOUNS},
    **{noun: _made(noun, _both if noun in EITHER else _task) for noun in NOUNS},
    "port": any_port(_service_port),
    "verdict": _verdicts,
    "direction": _directions,
    "protocol": lambda values: one_of([v.lower() for v in values], lambda seen: protocol_of(seen).lower()),
    "run": any_text(_pattern, lambda seen: (run_of(seen),)),
    "reason": any_text(lambda text: _pattern(text.replace(" ", "_")), lambda seen: (reason_of(seen),)),
    "peer": any_text(_pattern, lambda seen: (seen.peer.name, str(seen.tuple.peer))),
}
