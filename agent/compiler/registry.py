"""Classes and rulesets that somebody refers to, and the rows between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator

from agent.compiler.atoms import DNS, HOST, AtomId, AtomTable, Members
from agent.compiler.interning import Interner
from agent.compiler.ledger import ChangeLog
from agent.compiler.names import MOST_SERVERS, SERVERS, server_nodes
from agent.compiler.parts import MOST_PARTS, PARTS, part_nodes
from agent.compiler.refs import RuleRefs
from agent.compiler.rows import Rows
from agent.compiler.rulesets import RulesetContent
from agent.errors import TooMuch
from agent.model.policy import PolicyRef
from agent.model.want import (
    NO_CLASS,
    Classes,
    PartNode,
    Parts,
    PeerClass,
    RuleKey,
    Ruleset,
    RulesetId,
    RuleValue,
    ServerNode,
    Servers,
)

NO_MEMBERS: Members = frozenset()
MOST_BASES = 1000
ROWS = "rows of map rules"


def text_of_members(members: Members) -> str:
    """The same for equal members, in every process."""
    return repr(sorted(members))


class Registry:
    """Numbers classes and rulesets by content. `emit` writes what follows from all that was acquired and released."""

    def __init__(  # noqa: PLR0917  the maps that it writes
        self,
        table: AtomTable,
        refs: RuleRefs,
        rules: ChangeLog[RuleKey, RuleValue],
        rulesets: ChangeLog[RulesetId, Ruleset],
        servers: ChangeLog[ServerNode, Servers],
        parts: ChangeLog[PartNode, Parts],
        room: int | None = None,
    ) -> None:
        """`room`: rows that fit; None: any number. `at_once`: rows that one step may add to those that are there."""
        self._written_rows, self.room = rules, room
        self.at_once: int | None = None
        self._table, self._refs = table, refs
        self._rows = Rows(rules, refs)
        self._written, self._servers, self._parts = rulesets, servers, parts
        self._nodes: dict[
            RulesetId, tuple[tuple[ServerNode, ...], tuple[PartNode, ...]]
        ] = {}  # of those that have any
        self._classes: Interner[Members] = Interner(NO_CLASS + 1, text_of_members)
        self._rulesets: Interner[RulesetContent] = Interner(1, RulesetContent.text)
        self._bases: dict[Members, Members] = {NO_MEMBERS: NO_MEMBERS}
        self._base_classes: set[Members] = {NO_MEMBERS}
        self._classes_by_key: dict[Hashable, set[Members]] = {}
        self.rulesets_by_key: dict[Hashable, set[RulesetContent]] = {}

    def base(self, members: Members) -> Members:
        """What of it counts in the base class; one object for equal sets, as there are many pairs of them."""
        known = self._bases.get(members)
        if known is None:
            found = members & self._table.base
            known = self._bases[members] = self._bases.setdefault(found, found)
        return known

    def acquire_class(self, members: Members) -> None:
        for each in (members, self.base(members)):
            if each:
                self._classes.acquire(each)

    def release_class(self, members: Members) -> None:
        for each in (members, self.base(members)):
            if each:
                self._classes.release(each)

    def classes(self, members: Members) -> Classes:
        return Classes(self._number(members), self._number(self.base(members)), HOST in members, DNS in members)

    def acquire_ruleset(self, content: RulesetContent) -> RulesetId:
        return RulesetId(self._rulesets.acquire(content))

    def release_ruleset(self, content: RulesetContent) -> None:
        self._rulesets.release(content)

    def is_live(self, content: RulesetContent) -> bool:
        """Does anybody refer to it?"""
        return content in self._rulesets.numbers

    def survivors(self) -> Iterator[tuple[RulesetContent, RulesetId]]:
        """Rulesets that were there before this step and still are."""
        born = {content for content, _ in self._rulesets.born()}
        return ((c, RulesetId(number)) for c, number in self._rulesets.numbers.items() if c not in born)

    def live_atoms(self) -> set[AtomId]:
        return {atom for members in self._classes.numbers for atom in members}

    def emit(self) -> None:
        """Brings rules and rulesets up to date. Once a step, after the last acquire and release.

        Raises TooMuch, before the work; then nothing here is of use any more.
        """
        born_classes, born_rulesets = list(self._classes.born()), list(self._rulesets.born())
        dead_classes, dead_rulesets = list(self._classes.dead()), list(self._rulesets.dead())
        for content, number in dead_rulesets:
            self._rows.drop_ruleset(RulesetId(number))
            self._written.put(RulesetId(number), None)
            self._forget_ruleset(content)
            servers, parts = self._nodes.pop(RulesetId(number), ((), ()))
            for node in servers:
                self._servers.put(node, None)
            for part in parts:
                self._parts.put(part, None)
        for members, number in dead_classes:
            self._rows.drop_class(PeerClass(number))
            self._forget_class(members)
        for content, _ in born_rulesets:
            self._learn_ruleset(content)
        for members, _ in born_classes:
            self._learn_class(members)
        for content, _ in dead_rulesets:
            self._refs.release(content.refs())
        self._check_room([content for content, _ in born_rulesets])
        for content, number in born_rulesets:
            self._write_demands(content, RulesetId(number))
        for content, number in born_rulesets:
            self._written.put(RulesetId(number), self._rows.ruleset(content))
            for members in self._touched(content):
                self._write(content, members)
        fresh = {content for content, _ in born_rulesets}
        for members, _ in born_classes:
            for content in self._touching(members) - fresh:
                self._write(content, members)

    def _check_room(self, born: list[RulesetContent]) -> None:
        if self.room is None or not born:
            return
        needs = self.needs(born)
        if needs.total() + len(self._written_rows.entries) > self.room:
            raise TooMuch(ROWS, needs, self.room)
        if self.at_once is not None and needs.total() > self.at_once:
            raise TooMuch(ROWS, needs, self.at_once)

    def _write_demands(self, content: RulesetContent, number: RulesetId) -> None:
        """What its rules with `tls` make of server names, and those with `http` of requests. Raises TooMuch."""
        servers = server_nodes(number, content.hellos, content.requests)
        parts = part_nodes(number, content.requests)
        if not servers:
            return
        if len(self._servers.entries) + len(servers) > MOST_SERVERS:
            raise TooMuch(SERVERS, self._by_policy(RulesetContent.servers_by_policy), MOST_SERVERS)
        if len(self._parts.entries) + len(parts) > MOST_PARTS:
            raise TooMuch(PARTS, self._by_policy(RulesetContent.parts_by_policy), MOST_PARTS)
        self._nodes[number] = tuple(servers), tuple(parts)
        for node, value in servers.items():
            self._servers.put(node, value)
        for part, bits in parts.items():
            self._parts.put(part, bits)

    def never_met(self) -> Counter[PolicyRef]:
        """By policy: most of its demands that have found no bit in one ruleset."""
        found = Counter[PolicyRef]()
        for content in self._rulesets.numbers:
            if content.never:
                found |= content.never_met()
        return found

    def _by_policy(self, needs: Callable[[RulesetContent], Counter[PolicyRef]]) -> Counter[PolicyRef]:
        found = Counter[PolicyRef]()
        for content in self._rulesets.numbers:
            found.update(needs(content))
        return found

    def needs(self, contents: Iterable[RulesetContent] | None = None) -> Counter[PolicyRef]:
        """By policy: most rows that these rulesets, or all, can need."""
        needs = Counter[PolicyRef]()
        for content in self._rulesets.numbers if contents is None else contents:
            needs.update(content.needs(self._touched(content)))
        return needs

    def commit(self) -> None:
        for interner in (self._classes, self._rulesets):
            interner.commit()
        self._rows.commit()
        if len(self._bases) > 2 * len(self._classes.numbers) + MOST_BASES:
            self._bases = {NO_MEMBERS: NO_MEMBERS}

    def _write(self, content: RulesetContent, members: Members) -> None:
        ruleset = RulesetId(self._rulesets.numbers[content])
        self._rows.write((ruleset, self._number(members)), content, members, self.base(members))

    def _number(self, members: Members) -> PeerClass:
        return PeerClass(self._classes.numbers[members]) if members else NO_CLASS

    def _touched(self, content: RulesetContent) -> set[Members]:
        """Classes that need rows of this ruleset: base classes, and those with an atom that it asks about."""
        found = set(self._base_classes)
        for key in content.index_keys():
            found |= self._classes_by_key.get(key, set())
        return found

    def _touching(self, members: Members) -> set[RulesetContent]:
        if members <= self._table.base:
            return set(self._rulesets.numbers)
        found: set[RulesetContent] = set()
        for key in self._keys(members):
            found |= self.rulesets_by_key.get(key, set())
        return found

    def _keys(self, members: Members) -> Iterator[Hashable]:
        keys = self._table.index_keys
        return (key for atom in members for key in keys.get(atom, ()))

    def _learn_ruleset(self, content: RulesetContent) -> None:
        self._refs.acquire(content.refs())
        for key in content.index_keys():
            self.rulesets_by_key.setdefault(key, set()).add(content)

    def _forget_ruleset(self, content: RulesetContent) -> None:
        for key in content.index_keys():
            self.rulesets_by_key[key].discard(content)
            if not self.rulesets_by_key[key]:
                del self.rulesets_by_key[key]

    def _learn_class(self, members: Members) -> None:
        if members <= self._table.base:
            self._base_classes.add(members)
        for key in self._keys(members):
            self._classes_by_key.setdefault(key, set()).add(members)

    def _forget_class(self, members: Members) -> None:
        self._base_classes.discard(members)
        for key in set(self._keys(members)):
            self._classes_by_key[key].discard(members)
            if not self._classes_by_key[key]:
                del self._classes_by_key[key]
