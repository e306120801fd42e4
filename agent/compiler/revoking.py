"""What a change of an address's members takes away from a ruleset (P10)."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator, Mapping

from agent.compiler.atoms import HOST, METADATA, AtomId, AtomTable, Members, ServicePortAtom
from agent.compiler.layers import DirectionView, Outcome
from agent.compiler.rulesets import CHART, RulesetContent
from agent.model.verdict import Verdict
from agent.model.want import PORT_INDEXES, Lift

Transition = tuple[Members, Members]
"""What some address was, and what it is."""

_SEEN_BY_ALL: Members = frozenset({HOST, METADATA})


class Moves:
    """Transitions of one revision, found by what a content asks: most contents ask about few of them.

    `asked`: the keys of every content that will be held against them.
    """

    def __init__(self, transitions: Iterable[Transition], table: AtomTable, asked: Container[Hashable]) -> None:
        self.seen_by_all: set[Transition] = set()
        self._by_key: dict[Hashable, set[Transition]] = {}
        for old, new in transitions:
            changed = old ^ new
            if changed & _SEEN_BY_ALL:
                self.seen_by_all.add((old, new))
            for key in _keys(changed, table):
                if key in asked:
                    self._by_key.setdefault(key, set()).add((old, new))

    def near(self, by_key: Mapping[Hashable, set[RulesetContent]]) -> set[RulesetContent]:
        """Contents that can see any of them, but for those that all see. `by_key`: contents by what they ask."""
        return set[RulesetContent]().union(*(by_key[key] for key in self._by_key))

    def revoke(self, content: RulesetContent) -> bool:
        """Does any of these addresses lose a port, in either direction, at which it passed?"""
        return any(_loses(content, old, new) for old, new in self._seen(content))

    def allow(self, content: RulesetContent) -> bool:
        """Does any of these addresses become something at which a port passes that did not?"""
        return any(_loses(content, new, old) for old, new in self._seen(content))

    def _seen(self, content: RulesetContent) -> set[Transition]:
        """Cheap and coarse: those of which the content can see any difference."""
        return self.seen_by_all.union(*(self._by_key[key] for key in content.index_keys() & self._by_key.keys()))


def _keys(atoms: frozenset[AtomId], table: AtomTable) -> set[Hashable]:
    """What a content that can see one of these has among its keys."""
    found: set[Hashable] = set(atoms)
    for number in atoms:
        found |= table.index_keys.get(number, frozenset())
        atom = table.atoms[number]
        if isinstance(atom, ServicePortAtom):
            found |= {atom.service, CHART} if atom.chart else {atom.service}
    return found


def _loses(content: RulesetContent, old: Members, new: Members) -> bool:
    for was, is_ in zip(content.views(old), content.views(new), strict=True):
        for port in _probes(was, is_):
            if _is_less(was.at(port), is_.at(port)):
                return True
    return False


def _is_less(before: Outcome, after: Outcome) -> bool:
    """Does something that passed pass no more, or less of it?"""
    if _openness(before) != _openness(after):
        return _openness(before) > _openness(after)
    was, is_ = (() if each.audits_hello else each.demands for each in (before, after))
    return bool(is_) and not (was and set(was) <= set(is_))


def _openness(outcome: Outcome) -> int:
    """What passes is more open than what may pass by a name."""
    return 2 if outcome.verdict is not Verdict.DENY else int(outcome.lift is not Lift.NONE)


def _probes(*views: DirectionView) -> Iterator[int]:
    """Ports that stand for all: verdicts change only where an interval begins or has ended."""
    intervals = {each for view in views for each in view.intervals()}
    yield from {0, *(port for low, high in intervals for port in (low, high + 1) if port < PORT_INDEXES)}
