"""Cgroups that the kernel has met and does not know: whose are they?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.abi.structs import U64
from agent.flows.decode import RawEvent
from agent.log import event
from agent.node.folders import Folders
from agent.sources.cgroup_ids import path_of

SEARCH_SHARE = 20
"""A search follows the last one after so many times what that took."""
ASKED_NS = 5_000_000_000
"""When an entry of `pending` goes: the kernel asks again after a second while packets come."""
_NAMED = 10
"""Cgroups that one search names in the log."""


class Asked(Protocol):
    """The map `pending`: by cgroup, when the kernel asked, in nanoseconds of the monotonic clock."""

    def items(self) -> list[tuple[bytes, bytes]]: ...
    def delete_all(self, keys: Iterable[bytes]) -> None: ...


@dataclass(slots=True)
class UnknownCgroups:
    """Owned by the writing thread. `search` lists all folders anew; it is slow where there are many."""

    folders: Folders
    mount: Path
    clock: Callable[[], float]  # monotonic
    due: float = 0.0  # when there may be another search
    _records: dict[int, RawEvent] = field(default_factory=dict)  # by cgroup id

    def __bool__(self) -> bool:
        return bool(self._records)

    def ask(self, record: RawEvent) -> None:
        self._records[record.cgroup_id] = record

    def answer(self, search: Callable[[], None]) -> None:
        """After the events of folders were read: perhaps they were only on their way."""
        self._drop_known()
        began = self.clock()
        if not self._records or began < self.due:
            return
        search()
        now = self.clock()
        self.due = now + SEARCH_SHARE * (now - began)
        self._drop_known()
        for cgroup in list(self._records)[:_NAMED]:
            path = path_of(self.mount, cgroup)
            event("cgroup.unknown", level=logging.WARNING, cgroup_id=cgroup, path=path or "gone")
        self._records = {}

    def _drop_known(self) -> None:
        """Those that belong to a pod: it is classified, or pending for a reason that the folders do not know."""
        pods = self.folders.pods
        self._records = {
            cgroup: record
            for cgroup, record in self._records.items()
            if not any(each in pods for each in (cgroup, *record.ancestors))
        }


def forget_asked(pending: Asked, now_ns: int) -> None:
    """Old entries of `pending`: a pod with thousands of cgroups asks once a second for each."""
    pending.delete_all(key for key, at in pending.items() if now_ns - int(U64.unpack(at)["value"]) > ASKED_NS)
