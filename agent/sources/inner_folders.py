"""Folders below containers', which nobody watches: which container's folder is above one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.sources.cgroups import ContainerFolder, Folder

MOST = 4096
"""Folders of one container that are looked into."""
SHARE = 20
"""All are listed anew after so many times what the last listing took."""


@dataclass(slots=True)
class InnerFolders:
    """Any thread: a listing is replaced as a whole."""

    mount: Path
    clock: Callable[[], float] = time.monotonic
    _above: dict[int, str] = field(default_factory=dict)  # cgroup id -> path of the container's folder
    _due: float = 0.0

    def above(self, cgroup_id: int, known: Iterable[Folder]) -> str:
        """Path of the container's folder that this one is in; "" where none of those known is."""
        began = self.clock()
        if cgroup_id not in self._above and began >= self._due:
            containers = [folder.path for folder in known if isinstance(folder, ContainerFolder)]
            self._above = {inode: path for path in containers for inode in self._below(path)}
            self._due = self.clock() + SHARE * (self.clock() - began)
        return self._above.get(cgroup_id, "")

    def _below(self, top: str) -> Iterator[int]:
        pending, left = [f"{self.mount}{top}"], MOST
        while pending and left > 0:
            try:
                with os.scandir(pending.pop()) as entries:
                    inner = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # it has gone
            left -= len(inner)
            pending += [entry.path for entry in inner]
            yield from (entry.inode() for entry in inner)
