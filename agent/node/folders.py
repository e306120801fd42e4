"""The cgroup folders that are there: whose they are, at which level, under which roots, and which nobody guards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agent.model.identity import PodUid
from agent.sources.cgroups import ContainerFolder, Folder, PodFolder, RootFolder

DEFAULT_LEVELS = (3, 2)
"""Where the kubelet's two drivers put pods' folders, counted from the root of the hierarchy."""


@dataclass(slots=True)
class Folders:
    """Written by the thread that reads the watcher."""

    pods: dict[int, PodUid] = field(default_factory=dict)  # cgroup id of a pod's or a container's folder
    roots: dict[int, RootFolder] = field(default_factory=dict)
    outside: dict[str, ContainerFolder] = field(default_factory=dict)  # by path: no program sees these
    _levels: Counter[int] = field(default_factory=Counter)

    def add(self, folder: Folder) -> None:
        if isinstance(folder, RootFolder):
            self.roots[folder.cgroup_id] = folder
        elif not folder.outside:
            self.pods[folder.cgroup_id] = folder.uid
            if isinstance(folder, PodFolder):
                self._levels[folder.level] += 1
        elif isinstance(folder, ContainerFolder):
            self.outside[folder.path] = folder

    def remove(self, folder: Folder) -> None:
        self.outside.pop(folder.path, None)
        self.roots.pop(folder.cgroup_id, None)
        if self.pods.pop(folder.cgroup_id, None) is not None and isinstance(folder, PodFolder):
            self._levels[folder.level] -= 1

    def levels(self) -> tuple[int, int]:
        """The two levels at which most pods' folders are: where the programs look for an endpoint's ancestors."""
        found = [level for level, count in self._levels.most_common(2) if count > 0]
        first, second = (found + [level for level in DEFAULT_LEVELS if level not in found])[:2]
        return first, second

    def unguarded_pods(self) -> list[PodUid]:
        """Pods with containers outside of every root (lab: kubelet's and runtime's cgroup drivers differ)."""
        return sorted({folder.uid for folder in self.outside.values()})
