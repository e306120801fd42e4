"""BPF_LSM_CGROUP: programs on security_socket_create() of a cgroup's processes.

bcc loads LSM programs for the whole machine only. So libbpf, which bcc brings along, is asked for the number of the
kernel's function, and the program is loaded by bpf(2). Source: kernel, Documentation/bpf/libbpf/program_types.rst.
"""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

from agent.kernel import syscall
from agent.kernel.btf import LIBBPF
from agent.kernel.instructions import EXIT, load_argument, set_register, skip_unless
from agent.kernel.syscall import AttachType, ProgType
from agent.log import event

BTF = Path("/sys/kernel/btf/vmlinux")
_MAGIC_PROTOCOL = 0x64_77_61_6C
"""A protocol that no socket has: without a program in the way, asking for it is EPROTONOSUPPORT."""


def load(name: str, instructions: bytes) -> int:
    """A program for `socket_create`; its descriptor. Raises OSError with the verifier's words."""
    return syscall.load_program(
        ProgType.LSM, AttachType.LSM_CGROUP, instructions, name, btf_id=_socket_create_btf_id()
    )


def works(mount: Path) -> bool:
    """Does the kernel ask such programs? Tried below `mount`, where this process must be, on a protocol nobody has.

    A kernel may load and attach them and never ask: where BPF is not among its active LSMs.
    """
    refuse_magic = load_argument(2) + skip_unless(_MAGIC_PROTOCOL, 2) + set_register(0, 0) + EXIT
    open_fds: list[int] = []
    try:
        open_fds.append(load("dagwall_probe", refuse_magic + set_register(0, 1) + EXIT))
        open_fds.append(os.open(mount, os.O_RDONLY | os.O_DIRECTORY))
        program, cgroup = open_fds
        open_fds.append(syscall.link_create(program, cgroup, AttachType.LSM_CGROUP))
        asked = _is_refused()
    except OSError as exc:
        event("feature.off", feature="lsm_cgroup", why=str(exc))
        return False
    finally:
        for fd in open_fds:
            os.close(fd)
    if not asked:
        event("feature.off", feature="lsm_cgroup", why="the kernel does not ask: BPF is not among its active LSMs")
    return asked


def _is_refused() -> bool:
    try:
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, _MAGIC_PROTOCOL).close()
    except OSError as exc:
        return isinstance(exc, PermissionError)
    return False


def _socket_create_btf_id() -> int:
    """Raises OSError where the kernel has no types or no such function, or libbpf is not there."""
    if not BTF.exists():
        raise OSError(f"{BTF} does not exist")
    number = int(ctypes.CDLL(LIBBPF).libbpf_find_vmlinux_btf_id(b"socket_create", int(AttachType.LSM_CGROUP)))
    if number < 0:
        raise OSError(-number, "the kernel has no bpf_lsm_socket_create()")
    return number
