"""Numbers of rules, as the kernel reports them, and the way back to names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from immutables import Map

from agent.compiler.interning import stable_number
from agent.model.policy import RuleRef
from agent.model.want import NO_RULE_ID, RuleId

FIRST_RULE = NO_RULE_ID + 1
KEPT = 4096
"""Names of deleted rules that are kept, because events on their way may still carry their numbers."""


class RuleRefs:
    """Numbers follow from names: a rule that comes back has its old one, in the next agent as well."""

    def __init__(self, kept: int = KEPT) -> None:
        self.names: Map[RuleId, RuleRef] = Map()  # other threads hold on to it
        self._numbers: dict[RuleRef, RuleId] = {}
        self._counts: dict[RuleRef, int] = {}
        self._gone: OrderedDict[RuleRef, None] = OrderedDict()
        self._kept = kept

    def acquire(self, refs: Iterable[RuleRef]) -> None:
        for ref in refs:
            self._counts[ref] = self._counts.get(ref, 0) + 1
            self._gone.pop(ref, None)
            if ref not in self._numbers:
                number = RuleId(stable_number(str(ref), FIRST_RULE, self.names))
                self._numbers[ref], self.names = number, self.names.set(number, ref)

    def release(self, refs: Iterable[RuleRef]) -> None:
        for ref in refs:
            self._counts[ref] -= 1
            if not self._counts[ref]:
                del self._counts[ref]
                self._gone[ref] = None
        while len(self._gone) > self._kept:
            ref, _ = self._gone.popitem(last=False)
            self.names = self.names.delete(self._numbers.pop(ref))

    def number(self, ref: RuleRef | None) -> RuleId:
        return NO_RULE_ID if ref is None else self._numbers[ref]
