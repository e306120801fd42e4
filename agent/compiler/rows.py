"""Rows of `rules`: one group for each ruleset and class that need any (want.py shows how the kernel reads them)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.compiler.atoms import AtomId, Members
from agent.compiler.layers import DirectionView, Outcome
from agent.compiler.ledger import ChangeLog
from agent.compiler.ports import WHOLE, last_of, own_parts, prefixes
from agent.compiler.refs import RuleRefs
from agent.compiler.rulesets import RulesetContent
from agent.model.verdict import Direction, Verdict
from agent.model.want import PORT_INDEXES, PeerClass, PortPrefix, RuleKey, Ruleset, RulesetId, RuleValue

GroupId = tuple[RulesetId, PeerClass]
MOST_VIEWS = MOST_LINES = 4096
UNNAMED = PORT_INDEXES - 1
"""A port that only a rule without `ports` holds: no protocol has it."""

Line = tuple[Direction, PortPrefix, RuleValue]
"""A row, but for the numbers of its ruleset and class."""


class Rows:
    """Writes groups of rows, and takes them back. What is in a group follows from a content and a class alone."""

    def __init__(self, rules: ChangeLog[RuleKey, RuleValue], refs: RuleRefs) -> None:
        self._rules, self._refs = rules, refs
        self._groups: dict[GroupId, tuple[RuleKey, ...]] = {}
        self._by_ruleset: dict[RulesetId, set[PeerClass]] = {}
        self._by_class: dict[PeerClass, set[RulesetId]] = {}
        self._views: dict[tuple[RulesetContent, Members], tuple[DirectionView, DirectionView]] = {}
        self._lines: dict[tuple[RulesetContent, Members, Members, bool], tuple[Line, ...]] = {}

    def ruleset(self, content: RulesetContent) -> Ruleset:
        egress, ingress = self._seen(content, frozenset())
        defaults = self._value(egress.at(UNNAMED), content), self._value(ingress.at(UNNAMED), content)
        spared = content.sockets.audit or defaults[Direction.EGRESS].verdict is Verdict.AUDIT
        sockets, hellos = replace(content.sockets, audit=spared), content.asks_hellos
        return Ruleset(defaults, sockets, names=content.asks_names, hellos=hellos)

    def write(self, group: GroupId, content: RulesetContent, members: Members, base: Members) -> None:
        """Writes the rows of a ruleset for a class, once: what either means never changes. Of a class that is its own
        base those that differ from the default, of any other those that differ from its base class's."""
        lines = self._lines_of(content, members, base)
        rows = {RuleKey(*group, direction, ports): value for direction, ports, value in lines}
        for key, value in rows.items():
            self._rules.put(key, value)
        self._groups[group] = tuple(rows)
        self._by_ruleset.setdefault(group[0], set()).add(group[1])
        self._by_class.setdefault(group[1], set()).add(group[0])

    def _lines_of(self, content: RulesetContent, members: Members, base: Members) -> tuple[Line, ...]:
        """Classes that a ruleset cannot tell apart share one answer."""
        own = members is base or members == base
        key = (content, content.seen(members), content.seen(base), own)
        known = self._lines.get(key)
        if known is None:
            if len(self._lines) >= MOST_LINES:
                self._lines.clear()
            known = self._lines[key] = tuple(self._computed(content, key[1], key[2], own=own))
        return known

    def _computed(self, content: RulesetContent, members: Members, base: Members, *, own: bool) -> Iterator[Line]:
        views, bases, defaults = (self._seen(content, each) for each in (members, base, frozenset[AtomId]()))
        for direction in Direction:
            default = defaults[direction].at(UNNAMED) if own else None
            for ports, outcome in _differing(views[direction], bases[direction], default):
                yield direction, ports, self._value(outcome, content)

    def drop_ruleset(self, ruleset: RulesetId) -> None:
        for peer_class in self._by_ruleset.pop(ruleset, set()):
            self._by_class[peer_class].discard(ruleset)
            self._drop((ruleset, peer_class))

    def drop_class(self, peer_class: PeerClass) -> None:
        for ruleset in self._by_class.pop(peer_class, set()):
            self._by_ruleset[ruleset].discard(peer_class)
            self._drop((ruleset, peer_class))

    def commit(self) -> None:
        self._views.clear()
        self._lines.clear()

    def _drop(self, group: GroupId) -> None:
        for key in self._groups.pop(group):
            self._rules.put(key, None)

    def _seen(self, content: RulesetContent, members: Members) -> tuple[DirectionView, DirectionView]:
        """Views of base classes are asked for again and again within a step; those of one content come together."""
        known = self._views.get((content, members))
        if known is None:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            known = self._views[content, members] = content.views(members)
        return known

    def _value(self, outcome: Outcome, content: RulesetContent) -> RuleValue:
        value = RuleValue(outcome.verdict, outcome.reason, self._refs.number(outcome.rule), outcome.lift)
        if not outcome.demands:
            return value
        hellos, requests = content.bits(outcome.demands)
        return replace(value, hellos=hellos, requests=requests, audits_hello=outcome.audits_hello)


def _differing(
    view: DirectionView, around: DirectionView, default: Outcome | None
) -> Iterator[tuple[PortPrefix, Outcome]]:
    """Prefixes of ports with the verdict of the longest one around a port, where it is not that of `around` there, or
    the default. A port takes the verdict of the longest prefix that holds it, so no more are needed than the rules'
    own intervals are made of."""
    asked = {WHOLE, *prefixes(view.intervals() | around.intervals())}
    inside: list[tuple[PortPrefix, Outcome]] = []
    for prefix, index in own_parts(asked):
        while inside and last_of(inside[-1][0]) < prefix[0]:
            inside.pop()
        outcome = view.at(index)
        usual = inside[-1][1] if inside else default or around.at(index)
        if outcome != usual:
            inside.append((prefix, outcome))
            yield prefix, outcome
