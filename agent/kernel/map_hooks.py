"""Programs on a map of sockets (BPF_PROG_ATTACH to a sockhash): the map itself holds them, so no link is pinned.

Whoever attaches replaces what was there in one step, for the sockets that join the map from then on: one that is in
it keeps the program with which it joined (net/core/sock_map.c, sock_map_link). The kernel lists what is attached from
5.18 on (sock_map_bpf_prog_query).
"""

from __future__ import annotations

import errno

from agent.kernel import syscall
from agent.kernel.syscall import AttachType


def attach(sockets: int, program: int, attach_type: AttachType) -> None:
    """Put a program on every socket that joins the map from now on. Raises OSError."""
    syscall.prog_attach(sockets, program, attach_type)


def detach(sockets: int, program: int, attach_type: AttachType) -> bool:
    """Take a program off the map; False where it was not on. Raises OSError."""
    try:
        syscall.prog_detach(sockets, program, attach_type)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise
        return False
    return True


def attached(sockets: int, attach_type: AttachType) -> int | None:
    """The number of the program that is on; 0: none. None where the kernel cannot be asked. Raises OSError."""
    try:
        return next(iter(syscall.prog_query(sockets, attach_type)), 0)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return None
