"""Which cgroup folder is which endpoint: pods' folders come and go, assignments change, entries follow (L1-L5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from agent.abi.structs import ENDPOINT, NEARBY_SLOTS
from agent.model.identity import IdentityNumber, PodUid
from agent.model.verdict import EndpointState
from agent.model.want import Assignment, Ruleset, RulesetId
from agent.sync.allocate import IdentityNumbers, Slots
from agent.sync.entries import pack_endpoint, pack_pending, place_flags

LINGER_SECONDS = 180.0
"""How long entries outlive their folder: orphaned TCP sockets still send the last upload (L4)."""


@dataclass(slots=True)
class Endpoint:
    """One pod of this node. Written by EndpointTable only."""

    uid: PodUid
    folders: set[int] = field(default_factory=set)
    assignment: Assignment | None = None
    number: IdentityNumber | None = None
    slot: int = 0


@dataclass(slots=True)
class EndpointOps:
    """Writes that follow from changes. None deletes; `bumped` are slots whose flows are to be judged again.

    `nearby`: indexes whose entry has another holder or another state; their values are the writer's to make. `left`:
    those that lost their holder in these writes; none gets another in the same ones, because a program may read one.
    """

    entries: dict[int, bytes | None] = field(default_factory=dict)
    nearby: set[int] = field(default_factory=set)
    bumped: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)


class EndpointTable:
    """State of all endpoints of the node; every change collects its writes in `ops` until they are taken."""

    def __init__(self, numbers: IdentityNumbers, adopted: Mapping[int, bytes] | None = None) -> None:
        """`adopted`: what is in the `endpoints` map already, by cgroup id."""
        self.numbers = numbers
        self.by_uid: dict[PodUid, Endpoint] = {}
        self.by_folder: dict[int, PodUid] = {}
        self.by_slot: dict[int, PodUid] = {}
        self._rendered: dict[int, bytes] = dict(adopted or {})
        self._adopted: dict[int, bytes] = dict(self._rendered)
        self._adopted_slots = {cgroup: int(ENDPOINT.unpack(raw)["slot"]) for cgroup, raw in self._rendered.items()}
        self.slots = Slots(set(self._adopted_slots.values()))
        self._nearby: dict[int, int] = {}
        self._leaving: dict[int, float] = {}  # when a folder's entry goes; what left first stands first
        self._unexplained: dict[PodUid, None] = {}  # no assignment yet, in the order they came
        self._forgotten: set[PodUid] = set()  # with the last assignment that there was; nobody gives them another
        self.touched: set[PodUid] = set()
        self._hurried: list[PodUid] = []
        self._ops = EndpointOps()

    def take_ops(self) -> EndpointOps:
        """The writes since the last call."""
        ops, self._ops = self._ops, EndpointOps()
        return ops

    def take_touched(self) -> set[PodUid]:
        """Pods of which anything has changed since the last call, those that have gone among them."""
        touched, self.touched = self.touched, set()
        return touched

    def pending(self) -> list[PodUid]:
        """Pods with a folder that nobody has explained yet; those found settled in the maps stay as they are (L5)."""
        held = EndpointState.PENDING
        return [uid for uid in self._unexplained if self.state_of(self.by_uid[uid]) is held]

    def add_folder(self, uid: PodUid, cgroup_id: int, rulesets: Mapping[RulesetId, Ruleset]) -> None:
        """A folder of the pod, or of one of its containers, is there."""
        endpoint = self._endpoint(uid)
        endpoint.folders.add(cgroup_id)
        self.by_folder[cgroup_id] = uid
        self._leaving.pop(cgroup_id, None)
        adopted = self._adopted_slots.pop(cgroup_id, 0)
        if adopted and not endpoint.slot:
            endpoint.slot = adopted
            self.by_slot[adopted] = uid
        self.refresh(uid, rulesets)

    def remove_folder(self, cgroup_id: int, now: float) -> None:
        """The folder is gone; its entry goes LINGER_SECONDS later, by expire(). `now` never goes back."""
        if cgroup_id in self.by_folder:
            self._leaving.pop(cgroup_id, None)
            self._leaving[cgroup_id] = now + LINGER_SECONDS

    def expire(self, now: float) -> list[PodUid]:
        """Drop what left long enough ago; the pods whose last folder it was."""
        due = list(takewhile(lambda cgroup: self._leaving[cgroup] <= now, self._leaving))
        for cgroup in due:
            del self._leaving[cgroup]
        gone = self._hurried + [uid for cgroup in due if (uid := self._drop(cgroup)) is not None]
        self._hurried = []
        return gone

    def assign(self, uid: PodUid, assignment: Assignment | None, rulesets: Mapping[RulesetId, Ruleset]) -> None:
        """The compiler's word on a pod. None: nothing is known of it (any more)."""
        endpoint = self._endpoint(uid)
        if assignment is None and endpoint.folders:
            self._forgotten.add(uid)
            self._hold_without_rules(endpoint, rulesets)
            return  # deleted in the API while its folder is there: keeps identity and rules (L4)
        if endpoint.assignment and endpoint.number is not None:
            self.numbers.release(endpoint.assignment.identity)
        endpoint.assignment = assignment
        managed = assignment is not None and assignment.state is not EndpointState.UNMANAGED
        endpoint.number = self.numbers.acquire(assignment.identity) if assignment and managed else None
        self._unexplained.pop(uid, None)
        self._forgotten.discard(uid)
        if assignment is None:
            del self.by_uid[uid]
            return
        self.refresh(uid, rulesets)

    def hold_unexplained(self, rulesets: Mapping[RulesetId, Ruleset]) -> None:
        """Of a complete snapshot: those that it does not explain, found in the maps or of one before, when the
        ruleset goes that they have."""
        for uid in (*self._unexplained, *self._forgotten):
            self._hold_without_rules(self.by_uid[uid], rulesets)

    def _hold_without_rules(self, endpoint: Endpoint, rulesets: Mapping[RulesetId, Ruleset]) -> None:
        """Rows of a ruleset that nobody has any more go: the pod must not fall to the defaults that stay."""
        for cgroup in endpoint.folders & self._rendered.keys():
            entry = ENDPOINT.unpack(self._rendered[cgroup])
            if entry["state"] == EndpointState.MANAGED and entry["ruleset"] not in rulesets:
                self._render(cgroup, pack_pending(self._rendered[cgroup]), endpoint.slot)

    def refresh(self, uid: PodUid, rulesets: Mapping[RulesetId, Ruleset]) -> None:
        """Make the entries of a pod's folders equal to its assignment."""
        endpoint = self.by_uid[uid]
        assignment = endpoint.assignment
        if assignment is None or not endpoint.folders:
            return
        if assignment.state is not EndpointState.UNMANAGED and not endpoint.slot:
            self._make_room()
            endpoint.slot = self.slots.take()
            self.by_slot[endpoint.slot] = uid
            self._ops.bumped.add(endpoint.slot)  # whoever had this slot before may have left flows
        value = pack_endpoint(assignment, rulesets.get(assignment.ruleset), endpoint.number or 0, endpoint.slot)
        for cgroup in endpoint.folders:
            self._render(cgroup, value, endpoint.slot)

    def bump(self, revoked: set[RulesetId]) -> None:
        """New epochs for the endpoints of rulesets in which something is not allowed any more (P10)."""
        for endpoint in self.by_uid.values() if revoked else ():
            if endpoint.slot and not revoked.isdisjoint(self._rulesets_of(endpoint)):
                self._ops.bumped.add(endpoint.slot)

    def _rulesets_of(self, endpoint: Endpoint) -> Iterator[RulesetId]:
        """Of one that nobody has explained: by its entries."""
        if endpoint.assignment is not None:
            yield endpoint.assignment.ruleset
            return
        for cgroup in endpoint.folders & self._rendered.keys():
            yield RulesetId(int(ENDPOINT.unpack(self._rendered[cgroup])["ruleset"]))

    def bump_all(self) -> None:
        """New epochs for everyone: nobody knows what was allowed before."""
        self._ops.bumped.update(self.by_slot)

    def replaced(self) -> list[tuple[int, bytes]]:
        """(cgroup id, adopted value) of entries that have another ruleset since; once, by the first complete list."""
        adopted, self._adopted = self._adopted, {}
        return self.with_another_ruleset(adopted)

    def with_another_ruleset(self, before: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
        """Of these entries, by cgroup id, those whose endpoint has another ruleset now."""
        ruleset = ENDPOINT.offsets["ruleset"]
        return [
            (cgroup, value)
            for cgroup, value in before.items()
            if (now := self._rendered.get(cgroup)) and now[ruleset : ruleset + 4] != value[ruleset : ruleset + 4]
        ]

    def rendered(self, uids: Iterable[PodUid]) -> list[tuple[int, bytes]]:
        """(cgroup id, value) of the entries of these."""
        folders = (self.by_uid[uid].folders for uid in uids if uid in self.by_uid)
        return [(cgroup, self._rendered[cgroup]) for each in folders for cgroup in each if cgroup in self._rendered]

    def state_of(self, endpoint: Endpoint) -> EndpointState:
        """As the kernel has it: of kept ones, what the agent before wrote."""
        if endpoint.assignment is not None:
            return endpoint.assignment.state
        kept = [self._rendered[folder] for folder in endpoint.folders if folder in self._rendered]
        return EndpointState(ENDPOINT.unpack(kept[0])["state"]) if kept else EndpointState.PENDING

    def differing(self, have: Mapping[int, bytes]) -> int:
        """How many entries of the `endpoints` map are not what was written."""
        return sum(self._rendered.get(cgroup) != have.get(cgroup) for cgroup in self._rendered.keys() | have.keys())

    def nearby_held(self) -> set[int]:
        """Indexes of `nearby` that a folder holds."""
        return set(self._nearby)

    def redo(self, have: Iterable[int], nearby: Iterable[int] = ()) -> None:
        """Every entry again, and every flow judged again: when it is not certain what has been written.

        `have`: keys of the `endpoints` map; `nearby`: indexes of that map that are not empty.
        """
        self._ops.nearby.update(nearby)
        self._ops.entries.update(dict.fromkeys(set(have) - self._rendered.keys()))
        self._ops.entries.update(self._rendered)
        self._ops.nearby.update(self._nearby)
        self.bump_all()

    def prune_adopted(self) -> int:
        """After the first complete list and scan: entries whose folder nobody has found go. How many."""
        strangers = [cgroup for cgroup in self._rendered if cgroup not in self.by_folder]
        for cgroup in strangers:
            self._drop(cgroup)
        for slot in set(self._adopted_slots.values()) - self.by_slot.keys() - {0}:  # a pod's folders share one
            self.slots.give_back(slot)
        self._adopted_slots = {}
        return len(strangers)

    def a_folder_of_each(self, slots: Iterable[int]) -> tuple[int, ...]:
        """One cgroup id for each slot that an endpoint has."""
        found = (self.by_uid.get(self.by_slot.get(slot, PodUid(""))) for slot in slots)
        return tuple(min(endpoint.folders) for endpoint in found if endpoint and endpoint.folders)

    def nearby_of(self, slot: int) -> set[int]:
        """Indexes of `nearby` that a slot's folders hold."""
        endpoint = self.by_uid.get(self.by_slot.get(slot, PodUid("")))
        folders = endpoint.folders if endpoint else set()
        return {cgroup % NEARBY_SLOTS for cgroup in folders if self._nearby.get(cgroup % NEARBY_SLOTS) == cgroup}

    def nearby_at(self, index: int) -> tuple[int, EndpointState, int, int]:
        """(cgroup id, state, flags, slot) of the folder that holds an index; zeros where none does."""
        cgroup = self._nearby.get(index, 0)
        endpoint = self.by_uid.get(self.by_folder.get(cgroup, PodUid("")))
        if endpoint is None or endpoint.assignment is None:
            return 0, EndpointState.PENDING, 0, 0
        return cgroup, endpoint.assignment.state, place_flags(endpoint.assignment), endpoint.slot

    def _endpoint(self, uid: PodUid) -> Endpoint:
        """The pod's; a new one is unexplained. Whoever asks is about to change it."""
        self.touched.add(uid)
        if uid not in self.by_uid:
            self.by_uid[uid] = Endpoint(uid)
            self._unexplained[uid] = None
        return self.by_uid[uid]

    def _render(self, cgroup: int, value: bytes, slot: int) -> None:
        self._hold_nearby(cgroup)
        before = self._rendered.get(cgroup)
        if before == value:
            return
        self._rendered[cgroup] = value
        self._ops.entries[cgroup] = value
        if before is not None and slot:
            self._ops.bumped.add(slot)

    def _hold_nearby(self, cgroup: int) -> None:
        """A direct-mapped table: of two folders with equal low bits, the second takes the slower way."""
        index = cgroup % NEARBY_SLOTS
        if index not in self._ops.left and self._nearby.setdefault(index, cgroup) == cgroup:
            self._ops.nearby.add(index)

    def _make_room(self) -> None:
        """Where every slot is taken, what left first goes before its time: a new pod must not wait for orphans."""
        while not self.slots.left and self._leaving:
            cgroup = next(iter(self._leaving))
            del self._leaving[cgroup]
            uid = self._drop(cgroup)
            self._hurried += [uid] if uid is not None else []

    def _leave_nearby(self, cgroup: int) -> None:
        if self._nearby.get(cgroup % NEARBY_SLOTS) == cgroup:
            del self._nearby[cgroup % NEARBY_SLOTS]
            self._ops.nearby.add(cgroup % NEARBY_SLOTS)
            self._ops.left.add(cgroup % NEARBY_SLOTS)

    def _drop(self, cgroup: int) -> PodUid | None:
        if self._rendered.pop(cgroup, None) is not None:
            self._ops.entries[cgroup] = None
        self._leave_nearby(cgroup)
        uid = self.by_folder.pop(cgroup, None)
        endpoint = self.by_uid.get(uid) if uid is not None else None
        if endpoint is None:
            return None
        endpoint.folders.discard(cgroup)
        self.touched.add(endpoint.uid)
        if endpoint.folders:
            return None
        self._unexplained.pop(endpoint.uid, None)
        self._forgotten.discard(endpoint.uid)
        if endpoint.slot:
            self._ops.bumped.add(endpoint.slot)
            self.slots.give_back(endpoint.slot)
            del self.by_slot[endpoint.slot]
        if endpoint.assignment and endpoint.number is not None:
            self.numbers.release(endpoint.assignment.identity)
        del self.by_uid[endpoint.uid]
        return endpoint.uid
