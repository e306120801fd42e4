"""What a change of an address's members takes away from a ruleset (P10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.compiler.atoms import HOST, METADATA, AtomId, AtomTable, Members, ServicePortAtom
from agent.compiler.layers import View
from agent.compiler.ports import ANY_PORT, OTHER_PORT
from agent.compiler.rulesets import CHART, Content
from agent.model.verdict import Verdict
from agent.model.want import PORT_INDEXES

Transition = tuple[Members, Members]
"""What some address was, and what it is."""


def revokes(content: Content, transitions: Iterable[Transition], table: AtomTable) -> bool:
    """Does any of these addresses lose a port, in either direction, at which it passed?"""
    keys = content.touch_keys()
    return any(
        _concerns(keys, old ^ new, table) and _loses(content, old, new) for old, new in transitions if old != new
    )


def gains(content: Content, transitions: Iterable[Transition], table: AtomTable) -> bool:
    """Does any of these addresses become something at which a port passes that did not?"""
    return revokes(content, ((new, old) for old, new in transitions), table)


def _concerns(keys: set[object], atoms: frozenset[AtomId], table: AtomTable) -> bool:
    """Cheap and coarse: can the content see the difference at all?"""
    if HOST in atoms or METADATA in atoms:
        return True
    for number in atoms:
        atom = table.atoms[number]
        if number in keys or not keys.isdisjoint(table.touch_keys.get(number, ())):
            return True
        if isinstance(atom, ServicePortAtom) and (atom.service in keys or (atom.chart and CHART in keys)):
            return True
    return False


def _loses(content: Content, old: Members, new: Members) -> bool:
    for was, is_ in zip(content.views(old), content.views(new), strict=True):
        for port in _probes(was, is_):
            if was.at(port).verdict is not Verdict.DENY and is_.at(port).verdict is Verdict.DENY:
                return True
    return False


def _probes(*views: View) -> Iterator[int]:
    """Ports that stand for all: verdicts change only where an interval begins or has ended."""
    yield from (ANY_PORT, OTHER_PORT)
    intervals = {each for view in views for each in view.intervals()}
    yield from {port for low, high in intervals for port in (low, high + 1) if port < PORT_INDEXES}
