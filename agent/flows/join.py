"""Kernel records joined with names: who, whom, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.compiler.judge import judge
from agent.flows.account import Growth
from agent.flows.decode import RawEvent
from agent.model.cluster import Address, Cluster
from agent.model.flow import Denial, EndpointFacts, Flow, PeerKind, PeerName, Tuple
from agent.model.identity import Identity, Kind, PodUid
from agent.model.policy import RuleRef
from agent.model.verdict import DropReason
from agent.model.want import RuleId

NameOf = Callable[[Address], PeerName]
_LACKS_A_RULE = (DropReason.NO_RULE, DropReason.UNKNOWN_PEER, DropReason.NOT_A_REPLY)
NO_PEER = PeerName(PeerKind.UNKNOWN, "-")
STRANGER = Identity("", "", "", "", "", Kind.OTHER)


@dataclass(frozen=True, slots=True)
class Context:
    """What records are joined with: replaced as a whole when endpoints or the snapshot change."""

    cluster: Cluster
    by_slot: Mapping[int, EndpointFacts]
    by_cgroup: Mapping[int, EndpointFacts]
    rules: Mapping[RuleId, RuleRef]
    node: str = ""


class Joiner:
    """Remembers the endpoints of slots that have been given to others: flows outlive their pods."""

    def __init__(self, name_of: NameOf) -> None:
        self._name_of = name_of
        self._past: dict[tuple[int, int], EndpointFacts] = {}

    def learn(self, endpoints: Mapping[int, EndpointFacts]) -> None:
        """Who has which slot now, before records that may refer to it."""
        for slot, facts in endpoints.items():
            self._past.pop((slot, facts.number), None)
            self._past[(slot, facts.number)] = facts
        while len(self._past) > 20_000:
            del self._past[next(iter(self._past))]

    def facts(self, slot: int, number: int, context: Context) -> EndpointFacts:
        """The endpoint that has, or had, this slot with this identity; a nameless one where nobody knows."""
        known = context.by_slot.get(slot)
        if known is None or known.number != number:
            known = self._past.get((slot, number))
        return known or EndpointFacts(STRANGER, number, "", "", "")

    def flow(self, growth: Growth, context: Context, time: float) -> Flow:
        raw = growth.flow
        return Flow(
            time=time,
            endpoint=self.facts(raw.slot, raw.identity, context),
            tuple=raw.tuple,
            peer=self._name_of(raw.tuple.peer),
            verdict=raw.verdict,
            rule=_rule_name(raw.rule, context),
            counts=growth.counts,
            new=growth.new,
        )

    def denial(self, event: RawEvent, context: Context, time: float) -> Denial:
        """A denial, an audit or a foreign socket, with the nearest rule that would have allowed it (R1)."""
        endpoint = self.facts(event.slot, event.identity, context)
        opener = context.by_cgroup.get(event.task_cgroup_id) if event.task_cgroup_id else None
        return Denial(
            time=time,
            endpoint=endpoint,
            tuple=Tuple(event.peer, event.protocol, event.service_port, event.direction),
            peer=self._name_of(event.peer) if event.hook.has_peer else NO_PEER,
            verdict=event.verdict,
            reason=event.reason,
            rule=_rule_name(event.rule, context),
            hook=event.hook,
            cgroup_id=event.cgroup_id,
            socket_cookie=event.socket_cookie,
            source_port=event.client_port,
            opened_by=opener if opener and opener.uid != endpoint.uid else None,
            nearest=_nearest(event, endpoint, context.cluster),
            family=event.family,
        )


def _rule_name(number: int, context: Context) -> str:
    rule = context.rules.get(RuleId(number))
    return str(rule) if rule else ""


def _nearest(event: RawEvent, endpoint: EndpointFacts, cluster: Cluster) -> str:
    pod = cluster.pods.get(PodUid(endpoint.uid))
    if pod is None or event.reason not in _LACKS_A_RULE:
        return ""
    decision = judge(cluster, pod, event.direction, event.peer, event.protocol, event.service_port)
    return str(decision.nearest) if decision.nearest else ""
