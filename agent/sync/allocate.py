"""Numbers that the kernel knows things by: identities and endpoint slots."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from itertools import islice

from immutables import Map

from agent.abi.structs import ENDPOINT_SLOTS, IDENTITY_SLOTS
from agent.errors import CapacityError
from agent.model.identity import FIRST_IDENTITY, Identity, IdentityNumber

OVERFLOW_IDENTITY = IdentityNumber(FIRST_IDENTITY)
"""Number of every identity that found no slot of its own: visible in status and metrics."""
TAKEN_AT_ONCE = 64


class IdentityNumbers:
    """One number for each identity while anything refers to it, and as long as possible afterwards (I6)."""

    def __init__(
        self,
        known: Mapping[Identity, IdentityNumber] | None = None,
        cleared: Callable[[Collection[IdentityNumber]], None] | None = None,
    ) -> None:
        """`cleared`: called before numbers are given to others; takes away what the kernel counted under them."""
        self._numbers: dict[Identity, IdentityNumber] = dict(known or {})
        self._users: Counter[Identity] = Counter()
        self._snapshot: Map[Identity, IdentityNumber] = Map(self._numbers)
        self._changed: dict[Identity, IdentityNumber | None] = {}
        self._next = max(self._numbers.values(), default=FIRST_IDENTITY) + 1
        self._cleared = cleared or (lambda _: None)
        self._clean: deque[IdentityNumber] = deque()

    def acquire(self, identity: Identity) -> IdentityNumber:
        """The number of an identity that one more endpoint has."""
        self._users[identity] += 1
        number = self._numbers.get(identity)
        if number is None or number == OVERFLOW_IDENTITY:
            number = self._numbers[identity] = self._fresh()
            self._tell(identity, number)
        return number

    def release(self, identity: Identity) -> None:
        """One endpoint fewer; the number stays with the identity until it is needed for another one."""
        self._users[identity] -= 1
        if self._users[identity] <= 0:
            del self._users[identity]
            if identity in self._numbers:
                self._numbers[identity] = self._numbers.pop(identity)  # the longest unused first

    def take_changes(self) -> dict[Identity, IdentityNumber | None]:
        """Numbers given out since the last call, for the state folder; None: taken from an identity."""
        changed, self._changed = self._changed, {}
        return changed

    def snapshot(self) -> Map[Identity, IdentityNumber]:
        """All numbers given out; immutable."""
        return self._snapshot

    def users(self, identity: Identity) -> int:
        return self._users[identity]

    def _fresh(self) -> IdentityNumber:
        if self._next < FIRST_IDENTITY + IDENTITY_SLOTS:
            self._next += 1
            return IdentityNumber(self._next - 1)
        if not self._clean:
            self._take_back()
        return self._clean.popleft() if self._clean else OVERFLOW_IDENTITY

    def _take_back(self) -> None:
        """Numbers that nobody has, then the longest unused ones: some at once, because clearing costs a walk."""
        given = set(self._numbers.values())
        numbers = map(IdentityNumber, range(FIRST_IDENTITY + 1, FIRST_IDENTITY + IDENTITY_SLOTS))
        found = list(islice((number for number in numbers if number not in given), TAKEN_AT_ONCE))
        unused = (i for i, n in self._numbers.items() if not self._users[i] and n != OVERFLOW_IDENTITY)
        for identity in list(islice(unused, TAKEN_AT_ONCE - len(found))):
            found.append(self._numbers.pop(identity))
            self._tell(identity, None)
        if found:
            self._cleared(found)
        self._clean.extend(found)

    def _tell(self, identity: Identity, number: IdentityNumber | None) -> None:
        self._changed[identity] = number
        self._snapshot = self._snapshot.delete(identity) if number is None else self._snapshot.set(identity, number)


class Slots:
    """Indexes into `epochs`, `slots` and `denials`; 0 is nobody's. The longest free one is taken next.

    `taken`: those that somebody has, as an immutable map that is replaced before the slot is used. Any thread.
    """

    def __init__(self, taken: set[int] | None = None) -> None:
        self.taken: Map[int, None] = Map(dict.fromkeys(taken or ()))
        self._free = deque(slot for slot in range(1, ENDPOINT_SLOTS) if slot not in self.taken)

    @property
    def left(self) -> int:
        return len(self._free)

    def take(self) -> int:
        if not self._free:
            raise CapacityError(f"map epochs: more than {ENDPOINT_SLOTS - 1} managed endpoints on this node")
        slot = self._free.popleft()
        self.taken = self.taken.set(slot, None)
        return slot

    def give_back(self, slot: int) -> None:
        self._free.append(slot)
        if slot in self.taken:
            self.taken = self.taken.delete(slot)
