"""Layers of policies, and their verdict on the addresses of one class and a port (P1, P2, P3)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

from agent.compiler.firsts import Firsts
from agent.compiler.ports import Interval, Ports, covers_in_order
from agent.compiler.terms import Term
from agent.model.policy import Demand, RuleRef
from agent.model.verdict import Direction, DropReason, Verdict
from agent.model.want import Lift
from agent.semantics.builtin import NODE_TO_OWN_PODS, OBSERVED

FEW = 8
"""So many rules are looked through one by one."""


class Part(IntEnum):
    """Where in one direction of a layer a rule stands (Side)."""

    DENY = 0
    ALLOW = 1
    GUARD = 2
    RANKED = 3


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What all policies of one kind have in common. `decide`: what rules that match come to, at a port.

    `reaches_metadata`: a rule without peers does (P11 speaks against it). `judges_backends`: a service's address
    means the endpoints behind it (P13). `judges_names`: it has rules on DNS names, so that what it lacks a rule for,
    a name may allow; no other kind is asked about a name. `default`: names what lets pass what no policy speaks
    about. `last_resort`: asked only where no layer before has a rule for it.
    """

    name: str
    decide: Callable[[Hits, int, bool], Outcome] = field(repr=False, compare=False)
    default: RuleRef | None = None
    reaches_metadata: bool = False
    judges_backends: bool = False
    judges_names: bool = False
    last_resort: bool = False


@dataclass(frozen=True, slots=True)
class LoweredRule:
    """A rule of one direction. `enforced` False: its policy's posture is audit (P3). `action`: of a ranked rule, a
    word of its kind's own. `demands`: of an allow rule, what connections must begin with, or carry.
    """

    ref: RuleRef
    enforced: bool
    terms: tuple[Term, ...]
    action: str = ""
    demands: tuple[Demand, ...] = ()


RulePosition = tuple[int, Direction, Part]
"""Layer, direction, and in which part of it a rule stands."""


@dataclass(frozen=True, slots=True)
class IndexedTerm:
    """A term of a rule, and where the rule stands."""

    place: RulePosition
    position: int
    rule: LoweredRule
    term: Term
    kind: LayerKind


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of a layer: rules in the order of P2, and isolation by the enforced policies, and by all.

    `guard`: denies what no rule allows where the direction is not isolated either. `ranked`: of kinds whose first
    matching rule decides, by priority.
    """

    deny: tuple[LoweredRule, ...] = ()
    allow: tuple[LoweredRule, ...] = ()
    isolated: bool = False
    isolated_with_audit: bool = False
    guard: tuple[LoweredRule, ...] = ()
    ranked: tuple[LoweredRule, ...] = ()

    def parts(self) -> tuple[tuple[LoweredRule, ...], ...]:
        """In the order of Part."""
        return self.deny, self.allow, self.guard, self.ranked

    def rules(self) -> Iterator[LoweredRule]:
        return (rule for part in self.parts() for rule in part)


@dataclass(frozen=True, slots=True)
class Layer:
    """All policies of one kind that select an endpoint (P1)."""

    kind: LayerKind
    egress: Side
    ingress: Side

    def side(self, direction: Direction) -> Side:
        return self.egress if direction is Direction.EGRESS else self.ingress


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict with its reason and the rule to name, as in want.RuleValue. `final`: no layer after it is asked.

    `demands`: it allows connections that meet any of these only.
    """

    verdict: Verdict
    reason: DropReason = DropReason.NONE
    rule: RuleRef | None = None
    final: bool = False
    lift: Lift = Lift.NONE
    demands: tuple[Demand, ...] = ()
    audits_hello: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that matches an address, and the ports where it does, in order. `node`: because it names entity node."""

    rule: LoweredRule
    ports: Ports
    node: bool


@dataclass(frozen=True, slots=True)
class Hits:
    """Of one layer and direction, for one set of members."""

    kind: LayerKind
    side: Side
    parts: tuple[tuple[Hit, ...], ...]  # in the order of Part
    unknown: bool  # nobody known has the address (P15)
    from_host: bool  # it is this host's (P8)
    _firsts: dict[tuple[Part, Hashable], Firsts[int]] = field(default_factory=dict, compare=False, repr=False)
    _same: dict[bool, dict[tuple[Demand, ...], list[int]]] = field(default_factory=dict, compare=False, repr=False)

    def decide(self, port: int, *, audited: bool) -> Outcome:
        """The verdict at a port; `audited`: with the policies in audit as if enforced."""
        return self.kind.decide(self, port, audited)

    def first(self, part: Part, port: int, audited: bool) -> Hit | None:  # noqa: FBT001  as in decide
        """The first rule that counts at this port. To the node's own pods only a rule that names it denies (P8)."""
        hits = self.parts[part]
        if len(hits) <= FEW:
            return next((h for h in hits if self._counts(h, part, audited) and covers_in_order(h.ports, port)), None)
        number = self._first_of(
            (part, audited), (i for i, h in enumerate(hits) if self._counts(h, part, audited)), port
        )
        return None if number is None else hits[number]

    def allowing(self, port: int, audited: bool) -> tuple[LoweredRule, ...]:  # noqa: FBT001  as in decide
        """Allow rules that count at this port, in their order: of all that demand the same, the first."""
        hits = self.parts[Part.ALLOW]
        if audited not in self._same:
            same = self._same[audited] = {}
            for i, hit in enumerate(hits):
                if self._counts(hit, Part.ALLOW, audited):
                    same.setdefault(hit.rule.demands, []).append(i)
        groups = self._same[audited].items()
        first = (self._first_of((Part.ALLOW, (audited, same)), numbers, port) for same, numbers in groups)
        return tuple(hits[i].rule for i in sorted(i for i in first if i is not None))

    def _first_of(self, key: tuple[Part, Hashable], numbers: Iterable[int], port: int) -> int | None:
        """The first of these of a part that holds the port; `key` stands for them."""
        found = self._firsts.get(key)
        if found is None:
            hits = self.parts[key[0]]
            found = self._firsts[key] = Firsts.of((hits[i].ports, i) for i in numbers)
        return found.at(port)

    def _counts(self, hit: Hit, part: Part, audited: bool) -> bool:  # noqa: FBT001  as in decide
        return (audited or hit.rule.enforced) and (hit.node or part is not Part.DENY or not self.from_host)


def deny_allow_isolate(hits: Hits, port: int, audited: bool) -> Outcome:  # noqa: FBT001  a LayerKind's
    """P2: deny rules, allow rules, isolation; to the node's own pods only what names the node may deny (P8)."""
    denying = hits.first(Part.DENY, port, audited)
    if denying is not None:
        return Outcome(Verdict.DENY, DropReason.DENY_RULE, denying.rule.ref)
    if hits.from_host:
        return Outcome(Verdict.ALLOW, DropReason.NONE, NODE_TO_OWN_PODS)
    allowing = hits.first(Part.ALLOW, port, audited)
    if allowing is not None:
        return _allowed(hits, allowing.rule, port, audited)
    if hits.side.isolated_with_audit if audited else hits.side.isolated:
        return Outcome(Verdict.DENY, DropReason.UNKNOWN_PEER if hits.unknown else DropReason.NO_RULE)
    guarding = hits.first(Part.GUARD, port, audited)
    if guarding is not None:
        return Outcome(Verdict.DENY, DropReason.DENY_RULE, guarding.rule.ref)
    return Outcome(Verdict.ALLOW, DropReason.NONE, hits.kind.default)


def _allowed(hits: Hits, first: LoweredRule, port: int, audited: bool) -> Outcome:  # noqa: FBT001  a LayerKind's
    """By the first rule that demands nothing, whatever it carries; else by any of those that match."""
    if not first.demands:
        return Outcome(Verdict.ALLOW, DropReason.NONE, first.ref)
    every = hits.allowing(port, audited)
    plain = next((rule for rule in every if not rule.demands), None)
    if plain is not None:
        return Outcome(Verdict.ALLOW, DropReason.NONE, plain.ref)
    demands = tuple(dict.fromkeys(each for rule in every for each in rule.demands))
    return Outcome(Verdict.ALLOW, DropReason.NONE, first.ref, demands=demands)


@dataclass(frozen=True, slots=True)
class DirectionView:
    """A content's verdicts on the addresses of one class in one direction."""

    layers: tuple[Hits, ...]
    audits: bool  # some policy is in audit, so that the second computation may differ
    may_be_named: bool = False  # a rule on a name may allow what no rule on these addresses does

    def at(self, port: int) -> Outcome:
        """The verdict at a port index; computed twice for the sake of audit (P3)."""
        enforced = self._through(port, audited=False)
        if enforced.demands and self.may_be_named:  # a name may allow it with others, or with none
            enforced = replace(enforced, lift=Lift.BY_NAME)
        denied = enforced.verdict is Verdict.DENY
        lacks = denied and self.may_be_named and self._lacks_a_rule(port, audited=False)
        if (denied and not lacks) or not self.audits:
            return replace(enforced, lift=Lift.BY_NAME) if lacks else enforced
        wished = self._through(port, audited=True)
        passes = wished.verdict is not Verdict.DENY
        by_name = passes or (self.may_be_named and self._lacks_a_rule(port, audited=True))
        if denied:
            if by_name:
                return replace(enforced, lift=Lift.BY_NAME)
            return replace(enforced, rule=wished.rule, lift=Lift.TO_AUDIT)
        if passes:
            return self._audited_hello(enforced, wished)
        audited = Outcome(Verdict.AUDIT, wished.reason, wished.rule)
        if enforced.demands:
            lift = Lift.TO_AUDIT if self.may_be_named else Lift.NONE
            return replace(audited, demands=enforced.demands, lift=lift)
        return replace(audited, rule=enforced.rule, lift=Lift.TO_ALLOW) if by_name else audited

    def _audited_hello(self, enforced: Outcome, wished: Outcome) -> Outcome:
        """Both pass; only where nothing that is enforced demands anything, those in audit may."""
        if enforced.demands or not wished.demands:
            return enforced
        lift = Lift.BY_NAME if self.may_be_named else Lift.NONE
        return replace(enforced, demands=wished.demands, audits_hello=True, lift=lift)

    def _lacks_a_rule(self, port: int, *, audited: bool) -> bool:
        """Would it pass if there were a rule in the layer that judges names?"""
        lacks = False
        for layer in self.layers:
            if layer.kind.last_resort and lacks:
                continue
            said = layer.decide(port, audited=audited)
            if said.verdict is Verdict.DENY:
                if not layer.kind.judges_names or said.reason is not DropReason.NO_RULE:
                    return False
                lacks = True
            elif said.final:
                break
        return lacks

    def _through(self, port: int, *, audited: bool) -> Outcome:
        """Every layer must let it pass; the rule to name is the first that is more than dagwall's default."""
        outcome = Outcome(Verdict.ALLOW, DropReason.NONE, OBSERVED)
        demands: tuple[Demand, ...] = ()
        for layer in self.layers:
            if layer.kind.last_resort and outcome.rule != OBSERVED:
                continue
            said = layer.decide(port, audited=audited)
            if said.verdict is Verdict.DENY or said.final:
                return said
            demands = demands or said.demands
            if outcome.rule == OBSERVED and said.rule is not None:
                outcome = said
        return replace(outcome, demands=demands) if demands != outcome.demands else outcome

    def intervals(self) -> set[Interval]:
        """The verdict is the same at all ports that the same of these hold."""
        hits = (hit for layer in self.layers for part in layer.parts for hit in part)
        return {each for hit in hits for each in hit.ports}
