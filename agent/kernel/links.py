"""Links between programs and cgroups: pinned, so that they outlive the agent; replaced in one step."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.kernel import syscall
from agent.kernel.syscall import AttachType


@contextmanager
def opened(pin: Path) -> Iterator[int]:
    """A descriptor of what is pinned there, until the end of the block. Raises OSError."""
    fd = syscall.open_pin(str(pin))
    try:
        yield fd
    finally:
        os.close(fd)


def create(root: Path, program: int, attach_type: AttachType) -> int:
    """A new link of a program to a cgroup; its descriptor. Raises OSError."""
    cgroup = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return syscall.link_create(program, cgroup, attach_type)
    finally:
        os.close(cgroup)


def updated(pin: Path, program: int) -> int | None:
    """A pinned link with this program in it. None, and no pin, where somebody has cut the link from its cgroup."""
    link = syscall.open_pin(str(pin))
    try:
        syscall.link_update(link, program)
    except OSError as exc:
        os.close(link)
        if exc.errno != errno.ENOLINK:
            raise
        pin.unlink()
        return None
    return link


def holds(pin: Path) -> bool:
    """Is there a link, and is it still on its cgroup?"""
    if not pin.exists():
        return False
    with opened(pin) as link:
        return syscall.link_info(link).cgroup_id != 0


def cut(pin: Path) -> None:
    """Take a link off its cgroup, whoever else holds it, and remove its pin."""
    with opened(pin) as link:
        try:
            syscall.link_detach(link)
        except OSError as exc:
            if exc.errno != errno.ENOLINK:  # cut already
                raise
    pin.unlink()
