"""What a scratch node leaves on the machine, and how it goes: also of one whose process was killed.

Each node holds a lock while its process lives (a record lock, fcntl(2): it goes with the process, however that ends,
and children do not inherit it); the next node that begins takes down all whose lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

LOCKS = Path("/run/dagwall-lab")
_held: set[str] = set()  # this process's own: to it they look free


def hold(name: str) -> int:
    """The lock of a node that begins; its descriptor."""
    LOCKS.mkdir(exist_ok=True)
    lock = os.open(LOCKS / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held.add(name)
    return lock


def release(name: str, lock: int) -> None:
    (LOCKS / name).unlink(missing_ok=True)
    os.close(lock)
    _held.discard(name)


def sweep(mount: Path) -> list[str]:
    """Take down the nodes of processes that have died; their names. `mount`: of cgroup v2."""
    gone = []
    for path in sorted(LOCKS.iterdir()) if LOCKS.is_dir() else ():
        if path.name in _held:
            continue
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its process was quicker
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # EACCES or EAGAIN: somebody lives
            os.close(lock)
            continue
        take_down(path.name, mount)
        release(path.name, lock)
        gone.append(path.name)
    return gone


def cgroup_of(name: str, mount: Path) -> Path:
    return mount / f"dagwall-{name}"


def bpffs_of(name: str) -> Path:
    return Path(f"/run/{name}-bpf")


def take_down(name: str, mount: Path) -> None:
    """Its processes, network namespaces, bpffs (pinned programs with it) and cgroups."""
    root = cgroup_of(name, mount)
    for procs in root.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            for pid in procs.read_text(encoding="ascii").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for netns in (line.split()[0] for line in listed.splitlines() if line.startswith(f"{name}-")):
        subprocess.run(["ip", "netns", "del", netns], check=False, capture_output=True)
    subprocess.run(["umount", str(bpffs_of(name))], check=False, capture_output=True)
    with contextlib.suppress(OSError):
        bpffs_of(name).rmdir()
    _remove_tree(root)


def _remove_tree(folder: Path) -> None:
    if not folder.exists():
        return
    for child in folder.iterdir():
        if child.is_dir():
            _remove_tree(child)
    for _ in range(50):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.02)  # a process of it is still on its way out
        else:
            return
