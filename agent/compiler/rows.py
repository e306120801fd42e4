"""Rows of `rules`: one group for each ruleset and class that need any (want.py shows how the kernel reads them)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from agent.compiler.atoms import AtomId, Members
from agent.compiler.layers import DirectionView, Outcome
from agent.compiler.ledger import ChangeLog
from agent.compiler.ports import ANY_PORT, OTHER_PORT, Interval, PortTable, is_ordinary
from agent.compiler.refs import RuleRefs
from agent.compiler.rulesets import RulesetContent
from agent.model.verdict import Direction, Verdict
from agent.model.want import (
    PORT_ANY,
    PORT_OTHER,
    PeerClass,
    PortClass,
    RuleKey,
    Ruleset,
    RulesetId,
    RuleValue,
)

GroupId = tuple[RulesetId, PeerClass]
MOST_VIEWS = MOST_LINES = 4096
KINDS = ((PORT_ANY, ANY_PORT), (PORT_OTHER, OTHER_PORT))


@dataclass(frozen=True, slots=True)
class RowGroup:
    """The rows of a ruleset for a class, and the ports that they depend on."""

    content: RulesetContent
    members: Members
    base: Members
    keys: tuple[RuleKey, ...]
    intervals: frozenset[Interval]


@dataclass(frozen=True, slots=True)
class Lines:
    """A ruleset's verdicts on a class, but for the class's number, and the ports that they depend on."""

    rows: tuple[tuple[PortClass, Direction, RuleValue], ...]
    intervals: frozenset[Interval]


class Rows:
    """Writes groups of rows, and takes them back."""

    def __init__(self, rules: ChangeLog[RuleKey, RuleValue], ports: PortTable, refs: RuleRefs) -> None:
        self._rules, self._ports, self._refs = rules, ports, refs
        self._groups: dict[GroupId, RowGroup] = {}
        self._by_ruleset: dict[RulesetId, set[PeerClass]] = {}
        self._by_class: dict[PeerClass, set[RulesetId]] = {}
        self._views: dict[tuple[RulesetContent, Members], tuple[DirectionView, DirectionView]] = {}
        self._lines: dict[tuple[RulesetContent, Members, Members, bool], Lines] = {}

    def ruleset(self, content: RulesetContent) -> Ruleset:
        egress, ingress = self._seen(content, frozenset())
        defaults = self._value(egress.at(ANY_PORT)), self._value(ingress.at(ANY_PORT))
        spared = content.sockets.audit or defaults[Direction.EGRESS].verdict is Verdict.AUDIT
        return Ruleset(defaults, replace(content.sockets, audit=spared), names=content.asks_names)

    def write(self, group: GroupId, content: RulesetContent, members: Members, base: Members) -> None:
        """Writes the rows of a ruleset for a class; of a class that is its own base, those that differ from the
        default, of any other, those that differ from its base class's."""
        old, lines = self._groups.get(group), self._lines_of(content, members, base)
        rows = {RuleKey(*group, port_class, direction): value for port_class, direction, value in lines.rows}
        for key in old.keys if old else ():
            if key not in rows:
                self._rules.put(key, None)
        for key, value in rows.items():
            self._rules.put(key, value)
        self._groups[group] = RowGroup(content, members, base, tuple(rows), lines.intervals)
        self._by_ruleset.setdefault(group[0], set()).add(group[1])
        self._by_class.setdefault(group[1], set()).add(group[0])

    def _lines_of(self, content: RulesetContent, members: Members, base: Members) -> Lines:
        """Classes that a ruleset cannot tell apart share one answer."""
        own = members is base or members == base
        key = (content, content.seen(members), content.seen(base), own)
        known = self._lines.get(key)
        if known is None:
            if len(self._lines) >= MOST_LINES:
                self._lines.clear()
            known = self._lines[key] = self._computed(content, key[1], key[2], own=own)
        return known

    def _computed(self, content: RulesetContent, members: Members, base: Members, *, own: bool) -> Lines:
        views, bases, defaults = (self._seen(content, each) for each in (members, base, frozenset[AtomId]()))
        rows: list[tuple[PortClass, Direction, RuleValue]] = []
        intervals: set[Interval] = set()
        for direction in Direction:
            view, around = views[direction], bases[direction]
            intervals |= view.intervals()  # the base class's are among them, as its members are
            default = defaults[direction].at(ANY_PORT)
            rows_of = self._of_base(view, default) if own else self._of_peer(view, around)
            rows += ((port_class, direction, self._value(outcome)) for port_class, outcome in rows_of)
        return Lines(tuple(rows), frozenset(intervals))

    def drop_ruleset(self, ruleset: RulesetId) -> None:
        for peer_class in self._by_ruleset.pop(ruleset, set()):
            self._by_class[peer_class].discard(ruleset)
            self._drop((ruleset, peer_class))

    def drop_class(self, peer_class: PeerClass) -> None:
        for ruleset in self._by_class.pop(peer_class, set()):
            self._by_ruleset[ruleset].discard(peer_class)
            self._drop((ruleset, peer_class))

    def rewrite(self, changed: Iterable[Interval]) -> None:
        """Writes every group anew that depends on these ports."""
        ranges = list(changed)
        self._lines.clear()  # of the ports before
        for group, known in list(self._groups.items()) if ranges else ():
            if any(lo <= high and low <= hi for lo, hi in known.intervals for low, high in ranges):
                self.write(group, known.content, known.members, known.base)

    def commit(self) -> None:
        self._views.clear()
        self._lines.clear()

    def _drop(self, group: GroupId) -> None:
        for key in self._groups.pop(group).keys:
            self._rules.put(key, None)

    def _of_base(self, view: DirectionView, default: Outcome) -> Iterator[tuple[PortClass, Outcome]]:
        for kind, probe in KINDS:
            usual = view.at(probe)
            if usual != default:
                yield kind, usual
            for port_class, index in self._classes(view.intervals(), kind):
                outcome = view.at(index)
                if outcome != usual:
                    yield port_class, outcome

    def _of_peer(self, view: DirectionView, around: DirectionView) -> Iterator[tuple[PortClass, Outcome]]:
        for kind, probe in KINDS:
            usual = view.at(probe)
            differs = usual != around.at(probe)
            if differs:
                yield kind, usual
            for port_class, index in self._classes(view.intervals(), kind):
                outcome = view.at(index)
                if outcome != (usual if differs else around.at(index)):
                    yield port_class, outcome

    def _classes(self, intervals: set[Interval], kind: PortClass) -> Iterator[tuple[PortClass, int]]:
        found: dict[PortClass, int] = {}
        for low, high in intervals:
            if is_ordinary(low) == (kind == PORT_ANY):
                found.update(self._ports.within(low, high))
        return iter(found.items())

    def _seen(self, content: RulesetContent, members: Members) -> tuple[DirectionView, DirectionView]:
        """Views of base classes are asked for again and again within a step; those of one content come together."""
        known = self._views.get((content, members))
        if known is None:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            known = self._views[content, members] = content.views(members)
        return known

    def _value(self, outcome: Outcome) -> RuleValue:
        return RuleValue(outcome.verdict, outcome.reason, self._refs.number(outcome.rule), outcome.lift)
