"""The draining thread: reads flows and counters from the kernel, joins them with names, feeds the outputs."""

from __future__ import annotations

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.abi.layout import Layout
from agent.abi.structs import EPOCH, FLOW, FLOW_KEY, IDENTITY_SLOTS, SLOT, U32
from agent.flows.account import Accountant, Growth, is_stream
from agent.flows.decode import (
    TOTALS_WORDS,
    IdentityCounts,
    RawDenials,
    RawEvent,
    decode_totals,
)
from agent.flows.join import Context, Joiner
from agent.flows.names import PeerNames
from agent.kernel.maps import KernelMap, possible_cpus, sum_per_cpu
from agent.kernel.probe import Jiffies
from agent.model.changes import Changes
from agent.model.flow import Denial, EndpointFacts, Flow, PeerKind
from agent.model.identity import FIRST_IDENTITY
from agent.model.verdict import Direction, DropReason, Loss
from agent.node.folding import Folding
from agent.sync.allocate import OVERFLOW_IDENTITY
from agent.sync.writer import Share

UNKNOWN_PEER_SECONDS = 10.0
"""How long a denial of an unknown incoming address waits for the API to explain it (P15)."""
WAITING = 10_000
"""Events that wait to be reported: some seconds of a node under attack."""


class Outputs(Protocol):
    """Where flows and denials go. Called from the draining thread only."""

    def flows(self, flows: list[Flow]) -> None: ...
    def denials(self, denials: list[Denial]) -> None: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A new context, and what changed since the last one: endpoints by slot, and the cluster."""

    context: Context
    endpoints: Mapping[int, EndpointFacts]
    changes: Changes


Message = Snapshot | RawEvent | None
"""None ends the thread after a last drain."""


class FlowDrain:
    """One thread runs `run`; others only put messages into `inbox`."""

    def __init__(
        self,
        maps: Mapping[str, KernelMap],
        *,
        jiffies: Jiffies,
        accountant: Accountant,
        outputs: Outputs,
        evicted: Callable[[Counter[Share]], None],
        still_open: Callable[[list[bytes]], set[bytes]],
        folding: Folding,
        taken: Callable[[], Container[int]],
        interval_seconds: float,
        hz: int,
    ) -> None:
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._maps, self._jiffies, self._accountant = maps, jiffies, accountant
        self._outputs, self._evicted, self._interval = outputs, evicted, interval_seconds
        self._still_open, self._folding, self._taken, self._hz = still_open, folding, taken, hz
        self._names = PeerNames()
        self._joiner = Joiner(self._names.name, time.monotonic)
        self._context: Context | None = None
        self._held: deque[tuple[float, RawEvent]] = deque()
        self._unread = 0

    def run(self) -> None:
        """Until a None comes. A flood of messages does not put the drain off."""
        due = time.monotonic() + self._interval
        while True:
            try:
                message = self.inbox.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                pass
            else:
                if message is None:
                    break
                self.take(message)
            if time.monotonic() >= due:
                self.drain_flows()
                self._folding.fold(self._taken, self._used)
                self.release_held(time.monotonic())
                due = time.monotonic() + self._interval
        self.drain_flows()

    def offer(self, record: RawEvent) -> None:
        """From the writing thread. What finds no room is counted; the totals have it (R2)."""
        if self.inbox.qsize() < WAITING:
            self.inbox.put(record)
        else:
            self._unread += 1

    def unread(self) -> dict[str, int]:
        """Reports that were lost here, and those without their nearest rule, by reason."""
        return {"events_unread": self._unread, "nearest_rules": self._joiner.nearest.skipped}

    def take(self, message: Snapshot | RawEvent) -> None:
        """One message."""
        if isinstance(message, Snapshot):
            self._context = message.context
            self._names.update(message.context.cluster, message.changes)
            self._joiner.learn(message.endpoints)
        elif message.reason is DropReason.UNKNOWN_PEER and message.direction is Direction.INGRESS:
            if len(self._held) >= WAITING:
                self._report(self._held.popleft()[1])
            self._held.append((time.monotonic() + UNKNOWN_PEER_SECONDS, message))
        else:
            self._report(message)

    def drain_flows(self) -> None:
        """Read the map once; report what grew; take out what is idle."""
        if self._context is None:
            return
        now = self._jiffies.now()
        reading = self._accountant.read(self._maps["flows"].items(), now)
        growths = reading.growths + self._evict(self._without_open(reading.idle, now))
        wall = time.time()
        times = (wall - age_seconds(growth.flow.last, now, self._hz) for growth in growths)
        flows = [self._joiner.flow(each, self._context, at) for each, at in zip(growths, times, strict=True)]
        self._outputs.flows(sorted(flows, key=lambda flow: flow.time))

    def release_held(self, now: float) -> None:
        """Denials of unknown incoming addresses that nobody has explained in time."""
        while self._held and self._held[0][0] <= now:
            _, event = self._held.popleft()
            if self._names.name(event.peer).kind is PeerKind.UNKNOWN:
                self._report(event)

    def denial_totals(self) -> list[RawDenials]:
        """Exact denials by slot, rule and reason, since the programs were first loaded."""
        return self._folding.totals()

    def identity_totals(self, slot: int) -> dict[Direction, IdentityCounts]:
        """Exact totals of an identity's slot."""
        value = self._maps["identities"].get(U32.pack(value=slot)) or b""
        return decode_totals(sum_per_cpu(value, TOTALS_WORDS))

    def losses(self) -> dict[Loss, int]:
        """Everything that was lost or left uncounted, by reason."""
        values = ((loss, self._maps["losses"].get(U32.pack(value=int(loss))) or b"") for loss in Loss)
        return {loss: sum_per_cpu(value, 1)[0] for loss, value in values}

    def _used(self) -> set[int]:
        """Numbers of identities that endpoints have; none before the first complete list."""
        context = self._context
        known = context is not None and context.cluster.complete
        return {facts.number for facts in context.by_slot.values()} if context and known else set()

    def _report(self, event: RawEvent) -> None:
        if self._context is not None:
            self._outputs.denials([self._joiner.denial(event, self._context, time.time())])

    def _without_open(self, idle: list[bytes], now: int) -> list[bytes]:
        """An entry stays while a connection of it is open, or nobody would know who opened that (P9)."""
        kept = self._still_open([key for key in idle if is_stream(key)])
        for key in kept:
            self._accountant.keep(key, now)
        return [key for key in idle if key not in kept]

    def _evict(self, keys: list[bytes]) -> list[Growth]:
        """A packet between the last read and the deletion is in the identity's totals, not in the flow's."""
        growths: list[Growth] = []
        by_share: Counter[Share] = Counter()
        flows = self._maps["flows"]
        for key in keys:
            value = flows.get(key)
            if value is None or not flows.delete(key):
                continue
            by_share[_share(key, value)] += 1
            growth = self._accountant.evicted(key, value)
            if growth is not None:
                growths.append(growth)
        if by_share:
            self._evicted(by_share)
        return growths


def age_seconds(last: int, now: int, hz: int) -> float:
    """Between two readings of jiffies, low 32 bits; none where the last packet came after the clock was read."""
    ticks = (now - last) & 0xFFFFFFFF
    return ticks / hz if ticks < 1 << 31 else 0.0


def lost_evictions(maps: Mapping[str, KernelMap]) -> Counter[Share]:
    """By share: entries of `flows` that were taken out without the kernel being told, when an agent died or ended.

    Uncorrected they would use up the share for good. Slots are read first, so that a flow that comes meanwhile
    counts as there.
    """
    inserted = dict(_by_share(maps["slots"].items(), SLOT, "inserted"))
    evicted = dict(_by_share(maps["epochs"].items(), EPOCH, "evicted"))
    there = Counter(_share(k, v) for k, v in maps["flows"].items())
    lost = {share: (count - evicted.get(share, 0) - there[share]) & 0xFFFFFFFF for share, count in inserted.items()}
    return Counter({share: count for share, count in lost.items() if 0 < count < 1 << 31})


def clear_identities(maps: Mapping[str, KernelMap], folding: Folding, numbers: Iterable[int]) -> None:
    """What the kernel counted under these numbers goes, denials into the overflow's: others are to have them."""
    found = list(numbers)
    if not found:
        return
    folding.give_up(found)
    identities = maps["identities"]
    nothing = bytes(identities.spec.value.size * possible_cpus())
    for number in found:
        identities.put(U32.pack(value=number - FIRST_IDENTITY), nothing)


def unknown_numbers(maps: Mapping[str, KernelMap], folding: Folding, known: Iterable[int]) -> list[int]:
    """Numbers that the kernel has counted under, and that the state folder has lost."""
    strange = {row.identity for row in folding.totals()} - {0}
    for slot in range(1, IDENTITY_SLOTS):
        if any(maps["identities"].get(U32.pack(value=slot)) or b""):
            strange.add(FIRST_IDENTITY + slot)
    return sorted(strange - {*known, OVERFLOW_IDENTITY})


def _share(key: bytes, value: bytes) -> Share:
    return int(FLOW.unpack(value)["slot"]), Direction(FLOW_KEY.unpack(key)["direction"])


def _by_share(items: Iterable[tuple[bytes, bytes]], layout: Layout, field: str) -> Iterator[tuple[Share, int]]:
    for key, value in items:
        slot = int(U32.unpack(key)["value"])
        for direction, count in zip(Direction, layout.unpack(value)[field], strict=True):
            yield (slot, direction), count
