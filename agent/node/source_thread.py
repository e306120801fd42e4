"""The source's own thread: snapshots as they come, and this host's addresses as they change (P12)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.model.changes import Changes
from agent.model.cluster import Settings
from agent.sources.host import AddressWatch, HostAddresses, host_addresses
from agent.sources.update import Source, Update

READ_SECONDS = 0.5
RESCAN_SECONDS = 10.0


@dataclass(slots=True)
class SourceThread:
    """`post` takes (monotonic time of reading, update) from this thread."""

    source: Source
    addresses: AddressWatch
    post: Callable[[float, Update], None]

    def run(self, stopping: Callable[[], bool]) -> None:
        """Until told so: waiting for an editor to finish must not hold up a pod."""
        due = time.monotonic() + RESCAN_SECONDS
        while not stopping():
            update = self.source.read(READ_SECONDS)
            if time.monotonic() >= due:
                due = time.monotonic() + RESCAN_SECONDS
                update = _both(update, self.source.rescan())
            if self.addresses.changed():
                update = _both(update, self._readdress())
            if update is not None:
                self.post(time.monotonic(), update)

    def _readdress(self) -> Update | None:
        store = self.source.store
        changes = store.configure(with_host(store.snapshot.settings, host_addresses()))
        return None if changes == Changes() else Update(store.snapshot, changes, self.source.problems)


def with_host(settings: Settings, found: HostAddresses) -> Settings:
    """Settings that know this host's addresses, and where its node-local DNS listens (P12)."""
    return replace(settings, host_addresses=found.own, host_dns=found.dns)


def _both(first: Update | None, second: Update | None) -> Update | None:
    return first.then(second) if first and second else first or second
