"""The source's own thread: snapshots as they come, and this host's addresses as they change (P12)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from agent.model.cluster import Settings
from agent.sources.host import HostAddresses, host_addresses
from agent.sources.update import Source, Update

READ_SECONDS = 0.5
RESCAN_SECONDS = 10.0


class Addresses(Protocol):
    """This host's addresses (agent.sources.host.AddressWatch)."""

    def changed(self) -> bool: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class SourceThread:
    """`post` takes (monotonic time of reading, update) from this thread; `look` reads the host's addresses."""

    source: Source
    addresses: Addresses
    post: Callable[[float, Update], None]
    look: Callable[[], HostAddresses] = host_addresses
    clock: Callable[[], float] = time.monotonic
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        self._due = self.clock() + RESCAN_SECONDS

    def run(self, stopping: Callable[[], bool]) -> None:
        """Until it is to stop. Not in the writing thread: waiting for an editor to finish must not hold up a pod."""
        while not stopping():
            self.step()

    def step(self) -> None:
        """Waits up to READ_SECONDS for news; posts all that there is as one update."""
        update = self.source.read(READ_SECONDS)
        if self.clock() >= self._due:
            self._due = self.clock() + RESCAN_SECONDS
            update = _both(update, self.source.rescan())
        if self.addresses.changed():
            found = self.look()
            update = _both(update, self.source.configure(lambda settings: with_host(settings, found)))
        if update is not None:
            self.post(self.clock(), update)


def with_host(settings: Settings, found: HostAddresses) -> Settings:
    """Settings that know this host's addresses, and where its node-local DNS listens (P12)."""
    return replace(settings, host_addresses=found.own, host_dns=found.dns)


def _both(first: Update | None, second: Update | None) -> Update | None:
    return first.then(second) if first and second else first or second
