"""Numbers of rules, as the kernel reports them, and the way back to names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from agent.model.policy import RuleRef
from agent.model.want import NO_RULE_ID, RuleId

KEPT = 4096
"""Names of deleted rules that are kept, because events on their way may still carry their numbers."""


class RuleRefs:
    """A number is never given to another rule; a rule that comes back while it is remembered has its old one."""

    def __init__(self, kept: int = KEPT) -> None:
        self.names: dict[RuleId, RuleRef] = {}
        self._numbers: dict[RuleRef, RuleId] = {}
        self._counts: dict[RuleRef, int] = {}
        self._gone: OrderedDict[RuleRef, None] = OrderedDict()
        self._kept = kept
        self._next = 1

    def acquire(self, refs: Iterable[RuleRef]) -> None:
        for ref in refs:
            self._counts[ref] = self._counts.get(ref, 0) + 1
            self._gone.pop(ref, None)
            if ref not in self._numbers:
                number = RuleId(self._next)
                self._next += 1
                self._numbers[ref], self.names[number] = number, ref

    def release(self, refs: Iterable[RuleRef]) -> None:
        for ref in refs:
            self._counts[ref] -= 1
            if not self._counts[ref]:
                del self._counts[ref]
                self._gone[ref] = None
        while len(self._gone) > self._kept:
            ref, _ = self._gone.popitem(last=False)
            del self.names[self._numbers.pop(ref)]

    def number(self, ref: RuleRef | None) -> RuleId:
        return NO_RULE_ID if ref is None else self._numbers[ref]
