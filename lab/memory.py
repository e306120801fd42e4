"""A memory limit for one process, as a container has it: what the kernel charges to it counts, BPF maps among it."""

from __future__ import annotations

import uuid
from pathlib import Path

V1 = Path("/sys/fs/cgroup/memory")


class MemoryLimit:
    """A group of its own in the memory controller. Raises OSError where this machine has none."""

    def __init__(self, limit: int) -> None:
        self._folder = _parent() / f"dagwall-{uuid.uuid4().hex[:8]}"
        self._folder.mkdir()
        v1 = self._folder.is_relative_to(V1)
        self._peak = "memory.max_usage_in_bytes" if v1 else "memory.peak"
        self._now = "memory.usage_in_bytes" if v1 else "memory.current"
        (self._folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))

    def command(self) -> tuple[str, ...]:
        """What comes before a command, so that it runs in here."""
        return ("sh", "-c", f'echo $$ > {self._folder}/cgroup.procs && exec "$@"', "sh")

    def peak(self) -> int:
        """Bytes, the page cache included."""
        return int((self._folder / self._peak).read_text())

    def now(self) -> int:
        """Bytes, the page cache included."""
        return int((self._folder / self._now).read_text())

    def close(self) -> None:
        """When its processes are gone."""
        self._folder.rmdir()


def _parent() -> Path:
    if V1.is_dir():
        return V1
    for line in Path("/proc/self/mounts").read_text(encoding="ascii").splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2" and "memory" in (Path(where) / "cgroup.controllers").read_text(encoding="ascii"):
            (Path(where) / "cgroup.subtree_control").write_text("+memory")
            return Path(where)
    raise OSError("no memory controller is mounted")
