"""Kernel records joined with names: who, whom, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field, replace

from immutables import Map

from agent.flows.account import Growth
from agent.flows.decode import RawAnswer, RawEvent, RawHello, RawOutcome
from agent.flows.lookups import AskedNames
from agent.flows.pacing import Pace
from agent.judge.claims import worth_of
from agent.judge.judge import judge
from agent.model.binding import Contradiction
from agent.model.cluster import Address, Cluster
from agent.model.flow import (
    Denial,
    EndpointFacts,
    FailedLookup,
    Flow,
    Outcome,
    PeerKind,
    PeerName,
    RuleMatch,
    Timing,
    Tuple,
)
from agent.model.identity import Identity, IdentityNumber, Kind, PodUid
from agent.model.nearest import Nearest
from agent.model.policy import Entity, FqdnPeer, Policy, PolicyRef, Rule, RuleRef
from agent.model.verdict import OF_HELLOS, Direction, DropReason, Verdict
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
    numbers: Mapping[Identity, IdentityNumber] = field(default_factory=Map)


Asked = tuple[int, int, Direction, Address, int, int, frozenset[str]]
"""(slot, identity, direction, peer, protocol, port) of a denial."""
ANSWERS = 4096
REFUSED = 8192
"""Sockets whose denied server names are kept, until their denial is read."""


@dataclass(slots=True)
class NearestRules:
    """The nearest rules of one snapshot. The judge walks all of it, so that asking is paced: one task's scan must not
    take the others' reports away. `skipped`: denials without a nearest rule for want of time."""

    clock: InitVar[Callable[[], float]]
    _cluster: Cluster | None = None
    _answers: dict[Asked, Nearest | None] = field(default_factory=dict)
    _pace: Pace = field(init=False)

    def __post_init__(self, clock: Callable[[], float]) -> None:
        self._pace = Pace(clock, rate=0.5, most=0.5, own_rate=0.05, own_most=0.1)

    @property
    def skipped(self) -> int:
        return self._pace.skipped

    def of(
        self, event: RawEvent, endpoint: EndpointFacts, cluster: Cluster, peer: PeerName = NO_PEER
    ) -> Nearest | None:
        pod = cluster.pods.get(PodUid(endpoint.uid))
        if pod is None or event.reason not in _LACKS_A_RULE:
            return None
        if cluster is not self._cluster or len(self._answers) >= ANSWERS:
            self._cluster, self._answers = cluster, {}
        names = frozenset({peer.name} if peer.kind is PeerKind.FQDN else ())
        asked = (event.slot, event.identity, event.direction, event.peer, event.protocol, event.service_port, names)
        if asked not in self._answers:
            begun = self._pace.begins(event.slot, endpoint.namespace)
            if begun is None:
                return None
            at = (event.direction, event.peer, event.protocol, event.service_port)
            decision = judge(cluster, pod, *at, names=names)
            self._answers[asked] = decision.nearest
            self._pace.ends(begun)
        return self._answers[asked]


class Joiner:
    """Remembers the endpoints of slots that have been given to others: flows outlive their pods."""

    def __init__(
        self, name_of: NameOf, clock: Callable[[], float], learned: Callable[[int, Address], str] = lambda *_: ""
    ) -> None:
        """`clock`: seconds that never go back. `learned`: a DNS name by which an identity knows an address."""
        self._learned = learned
        self._name_of, self.nearest, self.asked = name_of, NearestRules(clock), AskedNames(clock)
        self._greeted = AskedNames(clock)
        self._refused: dict[int, str] = {}  # by socket
        self._past: dict[tuple[int, int], EndpointFacts] = {}
        self._policies: Mapping[PolicyRef, Policy] | None = None
        self._has_names = False

    def learn(self, endpoints: Mapping[int, EndpointFacts]) -> None:
        """Who has which slot now, before records that may refer to it."""
        for slot, facts in endpoints.items():
            self._past.pop((slot, facts.number), None)
            self._past[(slot, facts.number)] = facts
        while len(self._past) > 20_000:
            del self._past[next(iter(self._past))]

    def facts(self, slot: int, number: int, context: Context, cgroup: int = 0) -> EndpointFacts:
        """The endpoint that has, or had, this slot with this identity; else the folder's, as slots are given anew by
        the next agent; else one without a pod, as far as the number has a name still.
        """
        for known in (context.by_slot.get(slot), self._past.get((slot, number)), context.by_cgroup.get(cgroup)):
            if known is not None and known.number == number:
                return known
        identity = next((each for each, its in context.numbers.items() if its == number), STRANGER)
        return EndpointFacts(identity, number, identity.namespace, "", "")

    def answer(self, record: RawAnswer, context: Context, time: float) -> FailedLookup | None:
        """Take in what a DNS server answered an endpoint; what it asked in vain is something to report."""
        event = record.event
        endpoint = self.facts(event.slot, event.identity, context, event.cgroup_id)
        answer = self.asked.learn((event.slot, event.identity), endpoint.namespace, record.message)
        if answer is None or not answer.failed:
            return None
        return FailedLookup(
            time=time,
            endpoint=endpoint,
            server=Tuple(event.peer, event.protocol, event.service_port, event.direction),
            peer=self._name_of(event.peer),
            name=answer.name,
            record=answer.record,
            rcode=answer.rcode,
        )

    def hello(self, record: RawHello) -> None:
        """Take in for which server an endpoint began a connection: what its address is called from now on. One that
        was denied has the name for itself."""
        event = record.event
        if event.verdict is not Verdict.DENY:
            self._greeted.note((event.slot, event.identity), event.peer, record.server)
            return
        self._refused[event.socket_cookie] = record.server
        if len(self._refused) > REFUSED:
            del self._refused[next(iter(self._refused))]

    def _peer(
        self, address: Address, owner: tuple[int, int], cluster: Cluster, *, refused: str | None = None
    ) -> PeerName:
        """An address of the world, or of a CIDR, has the name of the server for which the endpoint began a TLS
        connection to it last. Without any one of the world has the name under which the endpoint asked for it last;
        where nobody has seen that (yet), one that its identity has learned. `refused`: what a hello that was denied
        asked for; None: it is about no such hello."""
        peer = self._name_of(address)
        begun = self._greeted.name(owner, address) if refused is None else refused
        if begun and (peer.kind is PeerKind.CIDR or peer.name == Entity.WORLD.value):
            return replace(peer, kind=PeerKind.FQDN, name=begun)
        if peer.kind is not PeerKind.ENTITY or peer.name != Entity.WORLD.value:
            return peer
        asked = self.asked.name(owner, address)
        if not asked and self._learns(cluster):
            asked = self._learned(owner[1], address)
        return replace(peer, kind=PeerKind.FQDN, name=asked) if asked else peer

    def _learns(self, cluster: Cluster) -> bool:
        """Without a policy that names peers by `fqdn` nothing is, and each flow would ask the kernel in vain."""
        if cluster.policies is not self._policies:
            self._policies = cluster.policies
            peers = (peer for policy in cluster.policies.values() for _, _, peer in policy.peers())
            self._has_names = any(isinstance(peer, FqdnPeer) for peer in peers)
        return self._has_names

    def flow(self, growth: Growth, context: Context, time: float) -> Flow:
        raw = growth.flow
        return Flow(
            time=time,
            endpoint=self.facts(raw.slot, raw.identity, context, raw.cgroup_id),
            tuple=raw.tuple,
            peer=self._peer(raw.tuple.peer, (raw.slot, raw.identity), context.cluster),
            verdict=raw.verdict,
            rule=context.rules.get(RuleId(raw.rule)),
            counts=growth.counts,
            new=growth.new,
            reason=raw.reason,
            match=_match_of(raw.rule, context),
            source_port=raw.client_port,
        )

    def denial(self, event: RawEvent, context: Context, time: float) -> Denial:
        """A denial, an audit or a foreign socket, with the nearest rule that would have allowed it (R1)."""
        endpoint = self.facts(event.slot, event.identity, context, event.cgroup_id)
        opener = context.by_cgroup.get(event.task_cgroup_id) if event.task_cgroup_id else None
        owner = (event.slot, event.identity)
        refused = self._refused.get(event.socket_cookie, "") if event.reason in OF_HELLOS else None
        peer = self._peer(event.peer, owner, context.cluster, refused=refused) if event.hook.has_peer else NO_PEER
        return Denial(
            time=time,
            endpoint=endpoint,
            tuple=Tuple(event.peer, event.protocol, event.service_port, event.direction),
            peer=peer,
            verdict=event.verdict,
            reason=event.reason,
            rule=context.rules.get(RuleId(event.rule)),
            hook=event.hook,
            cgroup_id=event.cgroup_id,
            socket_cookie=event.socket_cookie,
            source_port=event.client_port,
            opened_by=opener if opener and opener.uid != endpoint.uid else None,
            nearest=self.nearest.of(event, endpoint, context.cluster, peer),
            family=event.family,
            match=_match_of(event.rule, context),
            contradiction=_contradiction(event, endpoint, context.cluster),
            pid=event.pid,
            comm=event.comm,
            request=event.request,
        )

    def outcome(self, record: RawOutcome, context: Context, time: float) -> Outcome:
        """Of a connection whose pod nobody knew at connect(), the folder tells whose it is."""
        event = record.event
        known = context.by_cgroup.get(event.cgroup_id) if not event.identity else None
        endpoint = known or self.facts(event.slot, event.identity, context, event.cgroup_id)
        return Outcome(
            time=time,
            endpoint=endpoint,
            tuple=Tuple(event.peer, event.protocol, event.service_port, event.direction),
            peer=self._peer(event.peer, (endpoint.slot, endpoint.number), context.cluster),
            cause=record.cause,
            detail=record.detail,
            rule=context.rules.get(RuleId(event.rule)),
            timing=_timing(record),
            source_port=event.client_port,
            pid=event.pid,
            comm=event.comm,
        )


def _timing(record: RawOutcome) -> Timing:
    """A socket that is used for a second connection keeps nothing of the first."""

    def between(first: int, last: int) -> float | None:
        return (last - first) / 1e9 if first and last >= first else None

    return Timing(
        lasted=between(record.began_ns, record.event.time_ns) or 0.0,
        handshake=between(record.began_ns, record.established_ns),
        first_byte=between(record.established_ns, record.answered_ns),
        round_trip=record.round_trip_us / 1e6 if record.round_trip_us else None,
        retransmits=record.retransmits,
    )


def _contradiction(event: RawEvent, endpoint: EndpointFacts, cluster: Cluster) -> Contradiction | None:
    if event.reason is not DropReason.QUARANTINED:
        return None
    return worth_of(cluster, endpoint.identity).contradiction


def _match_of(number: int, context: Context) -> RuleMatch:
    """What the rule looks at; a rule that the snapshot has no more is as good as none."""
    ref = context.rules.get(RuleId(number))
    policy = context.cluster.policies.get(ref.policy) if ref is not None else None
    if ref is None or policy is None:
        return RuleMatch.NONE
    found = next((rule for _, rule in policy.rules() if rule.name == ref.rule), None)
    return _match(found) if found is not None else RuleMatch.NONE


def _match(rule: Rule) -> RuleMatch:
    if rule.ports is None:
        return RuleMatch.ALL if rule.peers is None else RuleMatch.PEER
    if all(port.port is None and port.name is None for port in rule.ports):
        return RuleMatch.PROTOCOL if rule.peers is None else RuleMatch.PEER_AND_PROTOCOL
    return RuleMatch.PORT if rule.peers is None else RuleMatch.PEER_AND_PORT
