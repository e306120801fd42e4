"""Layers of policies, and what they say about the addresses of one class and a port (P1, P2, P3)."""

from __future__ import annotations

from dataclasses import dataclass

from agent.compiler.ports import Interval, Ports, covers, mentioned
from agent.compiler.terms import Term
from agent.model.policy import RuleRef
from agent.model.verdict import Direction, DropReason, Verdict
from agent.semantics.builtin import NODE_TO_OWN_PODS, OBSERVED


@dataclass(frozen=True, slots=True)
class LoweredRule:
    """A rule of one direction. `enforced` False: its policy's posture is audit (P3)."""

    ref: RuleRef
    enforced: bool
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of a layer: rules in the order of P2, and isolation by the enforced policies, and by all.

    `guard`: denies what no rule allows where the direction is not isolated either.
    """

    deny: tuple[LoweredRule, ...] = ()
    allow: tuple[LoweredRule, ...] = ()
    isolated: bool = False
    isolated_with_audit: bool = False
    guard: tuple[LoweredRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """All policies of one kind that select an endpoint (P1). `native`: NetworkPolicies; P5, P6, P11 do not hold."""

    egress: Side
    ingress: Side
    native: bool = False

    def side(self, direction: Direction) -> Side:
        return self.egress if direction is Direction.EGRESS else self.ingress


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict with its reason and the rule to name, as in want.RuleValue."""

    verdict: Verdict
    reason: DropReason = DropReason.NONE
    rule: RuleRef | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that matches an address, and the ports where it does. `node`: because the rule names entity node."""

    rule: LoweredRule
    ports: Ports
    node: bool


@dataclass(frozen=True, slots=True)
class Hits:
    """Of one layer and direction, for one set of members."""

    side: Side
    deny: tuple[Hit, ...]
    allow: tuple[Hit, ...]
    guard: tuple[Hit, ...]
    unknown: bool  # nobody known has the address (P15)
    from_host: bool  # it is this host's (P8)
    unspoken: RuleRef | None  # names what lets pass what no policy speaks about

    def decide(self, port: int, *, audited: bool) -> Outcome:
        """The verdict at a port (P2); `audited`: with the policies in audit as if enforced."""
        for hit in self.deny:
            if (audited or hit.rule.enforced) and covers(hit.ports, port) and (hit.node or not self.from_host):
                return Outcome(Verdict.DENY, DropReason.DENY_RULE, hit.rule.ref)
        if self.from_host:
            return Outcome(Verdict.ALLOW, DropReason.NONE, NODE_TO_OWN_PODS)
        for hit in self.allow:
            if (audited or hit.rule.enforced) and covers(hit.ports, port):
                return Outcome(Verdict.ALLOW, DropReason.NONE, hit.rule.ref)
        if self.side.isolated_with_audit if audited else self.side.isolated:
            return Outcome(Verdict.DENY, DropReason.UNKNOWN_PEER if self.unknown else DropReason.NO_RULE)
        for hit in self.guard:
            if (audited or hit.rule.enforced) and covers(hit.ports, port):
                return Outcome(Verdict.DENY, DropReason.DENY_RULE, hit.rule.ref)
        return Outcome(Verdict.ALLOW, DropReason.NONE, self.unspoken)


@dataclass(frozen=True, slots=True)
class View:
    """What a content says about the addresses of one class in one direction."""

    layers: tuple[Hits, ...]
    audits: bool  # some policy is in audit, so that the second computation may differ

    def at(self, port: int) -> Outcome:
        """The verdict at a port index, ANY_PORT or OTHER_PORT; computed twice for the sake of audit (P3)."""
        enforced = self._through(port, audited=False)
        if enforced.verdict is Verdict.DENY or not self.audits:
            return enforced
        wished = self._through(port, audited=True)
        if wished.verdict is Verdict.DENY:
            return Outcome(Verdict.AUDIT, wished.reason, wished.rule)
        return enforced

    def _through(self, port: int, *, audited: bool) -> Outcome:
        """Every layer must let it pass; the rule to name is the first that is more than dagwall's default."""
        outcome = Outcome(Verdict.ALLOW, DropReason.NONE, OBSERVED)
        for layer in self.layers:
            said = layer.decide(port, audited=audited)
            if said.verdict is Verdict.DENY:
                return said
            if outcome.rule == OBSERVED and said.rule is not None:
                outcome = said
        return outcome

    def intervals(self) -> set[Interval]:
        """The only ports at which the verdict may differ from that at ANY_PORT or OTHER_PORT."""
        hits = (hit for layer in self.layers for group in (layer.deny, layer.allow, layer.guard) for hit in group)
        return {each for hit in hits for each in mentioned(hit.ports)}
