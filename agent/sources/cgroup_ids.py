"""From a cgroup id, as kernel events carry it, to the folder's path."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from agent.sources.cgroup_names import Place
from agent.sources.cgroups import walk

_FILEID_KERNFS = 0xFE
_DENIED = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP)  # without CAP_DAC_READ_SEARCH


class _FileHandle(ctypes.Structure):
    """struct file_handle of open_by_handle_at(2) with kernfs's 64-bit id."""

    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("id", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)


def path_of(mount: Path, cgroup_id: int) -> str | None:
    """Path of a cgroup seen from `mount`; None if it has gone, or cannot be seen by this process (now)."""
    try:
        top = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        handle = _FileHandle(8, _FILEID_KERNFS, cgroup_id)
        mounted_at = os.readlink(f"/proc/self/fd/{top}")
        fd = _libc.open_by_handle_at(top, ctypes.byref(handle), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(top)
    if fd < 0:
        denied = ctypes.get_errno() in _DENIED
        return path_by_listing(mount, cgroup_id) if denied else None
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    if target == mounted_at:
        return "/"
    inside = target.startswith(f"{mounted_at}/") and not target.endswith(" (deleted)")
    return target.removeprefix(mounted_at) if inside else None


def path_by_listing(mount: Path, cgroup_id: int) -> str | None:
    """The same by comparing the inodes of all folders: slow, without privilege, and blind inside of containers."""
    places = walk(mount, Place(), frozenset())
    return next((here.path for here, inode in places if inode == cgroup_id), None)
