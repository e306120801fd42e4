"""The draining thread: reads flows and counters from the kernel, joins them with names, feeds the outputs."""

from __future__ import annotations

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from agent.abi.layout import Layout
from agent.abi.structs import EPOCH, FLOW, FLOW_KEY, SLOT, U32
from agent.flows.account import Accountant, Growth, is_stream
from agent.flows.decode import (
    RawAnswer,
    RawEvent,
    RawHello,
    RawOutcome,
    Record,
)
from agent.flows.join import Context, Joiner
from agent.flows.names import PeerNames
from agent.flows.unanswered import Unanswered
from agent.model.changes import Changes
from agent.model.flow import Denial, EndpointFacts, FailedLookup, Flow, Outcome, PeerKind
from agent.model.verdict import Direction, DropReason
from agent.node.folding import Folding
from agent.node.kernel import Maps
from agent.not_understood import NotUnderstood
from agent.sync import learned
from agent.sync.epochs import Share

UNKNOWN_PEER_SECONDS = 10.0
"""How long a denial of an unknown incoming address waits for the API to explain it (P15)."""
WAITING = 10_000
"""Events that wait to be reported: some seconds of a node under attack."""


class Receiver(Protocol):
    """Where flows and denials go. Called from the draining thread only."""

    def flows(self, flows: list[Flow]) -> None: ...
    def denials(self, denials: list[Denial]) -> None: ...
    def lookups(self, lookups: list[FailedLookup]) -> None: ...
    def outcomes(self, outcomes: list[Outcome]) -> None: ...


class Ticks(Protocol):
    """The kernel's jiffies, low 32 bits (agent.kernel.probe.Jiffies)."""

    def now(self) -> int: ...


def seconds_since_the_epoch() -> float:
    """The wall clock, which people may set."""
    return time.time()


@dataclass(frozen=True, slots=True)
class Clocks:
    """`monotonic` paces the thread, `wall` dates flows and denials: both in seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = seconds_since_the_epoch


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A new context, and what changed since the last one: endpoints by slot, and the cluster."""

    context: Context
    endpoints: Mapping[int, EndpointFacts]
    changes: Changes


Message = Snapshot | Record | None
"""None ends the thread after a last drain."""


class FlowDrain:
    """One thread runs `run`; others only put messages into `inbox`."""

    def __init__(
        self,
        maps: Maps,
        *,
        jiffies: Ticks,
        accountant: Accountant,
        receivers: Sequence[Receiver],
        evicted: Callable[[Counter[Share]], None],
        still_open: Callable[[list[bytes]], set[bytes]],
        folding: Folding,
        taken: Callable[[], Container[int]],
        interval_seconds: float,
        hz: int,
        clocks: Clocks = Clocks(),
    ) -> None:
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._maps, self._jiffies, self._accountant = maps, jiffies, accountant
        self._receivers, self._evicted, self._interval = receivers, evicted, interval_seconds
        self._still_open, self._folding, self._taken, self._hz = still_open, folding, taken, hz
        self._names = PeerNames()
        self._clocks, self._now = clocks, clocks.monotonic
        self._joiner = Joiner(self._names.name, self._now, partial(learned.name_of, maps))
        self._unanswered = Unanswered()
        self._context: Context | None = None
        self._held: deque[tuple[float, RawEvent]] = deque()
        self._unread = 0
        self.broken = NotUnderstood("record", self._now)

    def run(self) -> None:
        """Until a None comes. A flood of messages does not put the drain off."""
        due = self._now() + self._interval
        while True:
            try:
                message = self.inbox.get(timeout=max(0.0, due - self._now()))
            except queue.Empty:
                pass
            else:
                if message is None:
                    break
                self.take(message)
            if self._now() >= due:
                self.drain_flows()
                self._folding.fold(self._taken, self._used)
                self.release_held(self._now())
                due = self._now() + self._interval
        self.drain_flows()
        self.release_held(float("inf"))  # nobody explains them any more

    def offer(self, record: Record) -> None:
        """From the writing thread. What finds no room is counted; the totals have it (R2)."""
        if self.inbox.qsize() < WAITING:
            self.inbox.put(record)
        else:
            self._unread += 1

    def lost(self) -> dict[str, int]:
        """Reports that were lost here, and those without their nearest rule, by reason."""
        return {
            "events_unread": self._unread,
            "records_not_understood": self.broken.count,
            "nearest_rules": self._joiner.nearest.skipped,
            "dns_answers_unread": self._joiner.asked.skipped,
        }

    def take(self, message: Snapshot | Record) -> None:
        """One message."""
        if isinstance(message, Snapshot):
            self._context = message.context
            self._names.update(message.context.cluster, message.changes)
            self._joiner.learn(message.endpoints)
        else:
            self.broken.guard(lambda: self._take_record(message), None)

    def _take_record(self, message: Record) -> None:
        if isinstance(message, RawAnswer):
            self._answer(message)
        elif isinstance(message, RawOutcome):
            self._outcome(message)
        elif isinstance(message, RawHello):
            self._joiner.hello(message)
        elif message.reason is DropReason.UNKNOWN_PEER and message.direction is Direction.INGRESS:
            if len(self._held) >= WAITING:
                self._report(self._held.popleft()[1])
            self._held.append((self._now() + UNKNOWN_PEER_SECONDS, message))
        else:
            self._report(message)

    def drain_flows(self) -> None:
        """Read the map once; report what grew; take out what is idle."""
        if self._context is None:
            return
        now = self._jiffies.now()
        reading = self._accountant.read(self._maps["flows"].items(), now)
        for exc in reading.broken:
            self.broken.note(exc)
        growths = reading.growths + self._evict(self._without_open(reading.idle, now))
        wall = self._clocks.wall()
        times = (wall - age_seconds(growth.flow.last, now, self._hz) for growth in growths)
        flows = [flow for each, at in zip(growths, times, strict=True) if (flow := self._flow(each, at)) is not None]
        flows.sort(key=lambda flow: flow.time)
        self._tell(lambda receiver: receiver.flows(flows))
        silent = self._unanswered.look(flows, self._now(), self._names.is_resolver)
        if silent:
            self._tell(lambda receiver: receiver.lookups(silent))

    def _flow(self, growth: Growth, at: float) -> Flow | None:
        context = self._context
        return self.broken.guard(lambda: self._joiner.flow(growth, context, at), None) if context else None

    def _tell(self, tell: Callable[[Receiver], None]) -> None:
        """Each receiver by itself: one that fails costs the others nothing."""
        for receiver in self._receivers:
            self.broken.guard(lambda: tell(receiver), None)  # noqa: B023  at once

    def release_held(self, now: float) -> None:
        """Denials of unknown incoming addresses that nobody has explained in time."""
        while self._held and self._held[0][0] <= now:
            _, event = self._held.popleft()
            self.broken.guard(lambda: self._release(event), None)  # noqa: B023  at once

    def _release(self, event: RawEvent) -> None:
        if self._names.name(event.peer).kind is PeerKind.UNKNOWN:
            self._report(event)

    def _used(self) -> set[int]:
        """Numbers of identities that endpoints have; none before the first complete list."""
        context = self._context
        known = context is not None and context.cluster.complete
        return {facts.number for facts in context.by_slot.values()} if context and known else set()

    def _report(self, event: RawEvent) -> None:
        if self._context is not None:
            denials = [self._joiner.denial(event, self._context, self._clocks.wall())]
            self._tell(lambda receiver: receiver.denials(denials))

    def _answer(self, record: RawAnswer) -> None:
        """Only servers of entity `dns` say what an address is called."""
        if self._context is None or not self._names.is_resolver(record.event.peer):
            return
        failed = self._joiner.answer(record, self._context, self._clocks.wall())
        if failed is not None:
            self._tell(lambda receiver: receiver.lookups([failed]))

    def _outcome(self, record: RawOutcome) -> None:
        if self._context is not None:
            outcomes = [self._joiner.outcome(record, self._context, self._clocks.wall())]
            self._tell(lambda receiver: receiver.outcomes(outcomes))

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
            growth = self.broken.guard(lambda: self._accountant.evicted(key, value), None)  # noqa: B023  at once
            if growth is not None:
                growths.append(growth)
        if by_share:
            self._evicted(by_share)
        return growths


def age_seconds(last: int, now: int, hz: int) -> float:
    """Between two readings of jiffies, low 32 bits; none where the last packet came after the clock was read."""
    ticks = (now - last) & 0xFFFFFFFF
    return ticks / hz if ticks < 1 << 31 else 0.0


def lost_evictions(maps: Maps) -> Counter[Share]:
    """By share: entries of `flows` that were taken out without the kernel being told, when an agent died or ended.

    Uncorrected they would use up the share for good. Slots are read first, so that a flow that comes meanwhile
    counts as there.
    """
    inserted = dict(_by_share(maps["slots"].items(), SLOT, "inserted"))
    evicted = dict(_by_share(maps["epochs"].items(), EPOCH, "evicted"))
    there = Counter(_share(k, v) for k, v in maps["flows"].items())
    lost = {share: (count - evicted.get(share, 0) - there[share]) & 0xFFFFFFFF for share, count in inserted.items()}
    return Counter({share: count for share, count in lost.items() if 0 < count < 1 << 31})


def _share(key: bytes, value: bytes) -> Share:
    return int(FLOW.unpack(value)["slot"]), Direction(FLOW_KEY.unpack(key)["direction"])


def _by_share(items: Iterable[tuple[bytes, bytes]], layout: Layout, field: str) -> Iterator[tuple[Share, int]]:
    for key, value in items:
        slot = int(U32.unpack(key)["value"])
        for direction, count in zip(Direction, layout.unpack(value)[field], strict=True):
            yield (slot, direction), count
