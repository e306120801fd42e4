"""bpf(2) by ctypes: the few commands that the agent needs, without LLVM in the process.

Source: include/uapi/linux/bpf.h, union bpf_attr. Every call raises OSError with the kernel's errno.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import resource
import struct
from dataclasses import dataclass
from enum import IntEnum

from agent.errors import KernelError

_NUMBERS = {"x86_64": 321, "aarch64": 280}
"""Of bpf(2), by architecture."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_ATTR_BYTES = 144
_LOG_STATS = 4
"""BPF_LOG_STATS: the verifier writes what is wrong, without every instruction on its way."""
_NAME_BYTES = 15
"""Of a map or program, without the zero behind it (BPF_OBJ_NAME_LEN)."""
ENOTSUPP = 524
"""A kernel-internal errno that old kernels return for missing map operations."""


class Command(IntEnum):
    """enum bpf_cmd"""

    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    MAP_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    TEST_RUN = 10
    PROG_BY_ID = 13
    INFO = 15
    PROG_QUERY = 16
    BTF_LOAD = 18
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    ENABLE_STATS = 32
    LINK_DETACH = 34


class MapType(IntEnum):
    """enum bpf_map_type"""

    ARRAY = 2
    ARRAY_OF_MAPS = 12
    SOCKHASH = 18
    SK_STORAGE = 24
    RINGBUF = 27


class ProgType(IntEnum):
    """enum bpf_prog_type"""

    SOCKET_FILTER = 1
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    SOCK_OPS = 13
    SK_MSG = 16
    CGROUP_SOCK_ADDR = 18
    LSM = 29


class AttachType(IntEnum):
    """enum bpf_attach_type"""

    INET_INGRESS = 0
    INET_EGRESS = 1
    SOCK_CREATE = 2
    SOCK_OPS = 3
    SK_MSG_VERDICT = 7
    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    SENDMSG6 = 15
    SOCK_RELEASE = 34
    LSM_CGROUP = 43


@functools.cache
def _number() -> int:
    """Raises KernelError on an architecture whose number is not known: another one is another system call."""
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise KernelError(f"dagwall does not run on {machine}: allowed are {' and '.join(sorted(_NUMBERS))}")
    return _NUMBERS[machine]


def raise_memlock() -> None:
    """Kernels before 5.11 charge maps and programs to RLIMIT_MEMLOCK; without the right to raise it: EPERM."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def bpf(command: Command, attr: bytes | bytearray) -> tuple[int, bytes]:
    """One bpf(2) call: its result and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(bytes(attr).ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)
    result = _LIBC.syscall(_number(), int(command), buffer, _ATTR_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({command.name}): {os.strerror(code)}")
    return result, buffer.raw


@dataclass(frozen=True, slots=True)
class MapTypes:
    """Loaded types, and which of them a map's key and value are."""

    fd: int
    key: int
    value: int


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data) or 1)


def map_create(
    of: int, key_size: int, value_size: int, entries: int, *, flags: int = 0, inner: int = 0, name: str = "",
    types: MapTypes | None = None,
) -> int:  # fmt: skip
    """A descriptor of a new map. `inner`: descriptor of a map like those that a map of maps holds."""
    fd, key_type, value_type = (types.fd, types.key, types.value) if types else (0, 0, 0)
    attr = struct.pack(
        "=IIIIIII16sIIII", of, key_size, value_size, entries, flags, inner, 0, name.encode()[:_NAME_BYTES], 0, fd,
        key_type, value_type,
    )  # fmt: skip
    return bpf(Command.MAP_CREATE, attr)[0]


def btf_load(types: bytes) -> int:
    """A descriptor of types (kernel: Documentation/bpf/btf.rst)."""
    code = _buffer(types)
    return bpf(Command.BTF_LOAD, struct.pack("=QQII", ctypes.addressof(code), 0, len(types), 0))[0]


def descriptor(fd: int) -> bytes:
    """A descriptor as the value of a map of maps."""
    return struct.pack("=I", fd)


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value of a key, or None."""
    k, v = _buffer(key), ctypes.create_string_buffer(value_size)
    try:
        bpf(Command.MAP_LOOKUP, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0))
    except OSError as exc:
        if exc.errno == errno.ENOENT:
            return None
        raise
    return v.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    k, v = _buffer(key), _buffer(value)
    bpf(Command.MAP_UPDATE, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0))


def map_delete(fd: int, key: bytes) -> bool:
    """False where the key was not there."""
    k = _buffer(key)
    try:
        bpf(Command.MAP_DELETE, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(k), 0, 0))
    except OSError as exc:
        if exc.errno == errno.ENOENT:
            return False
        raise
    return True


def map_next_key(fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """The key after `key` (the first for None), or None at the end."""
    k = _buffer(key) if key is not None else None
    after = ctypes.create_string_buffer(key_size)
    at = ctypes.addressof(k) if k is not None else 0
    try:
        bpf(Command.MAP_NEXT_KEY, struct.pack("=IIQQQ", fd, 0, at, ctypes.addressof(after), 0))
    except OSError as exc:
        if exc.errno == errno.ENOENT:
            return None
        raise
    return after.raw


def map_batch(command: Command, fd: int, keys: bytes, values: bytes, count: int) -> None:
    """MAP_UPDATE_BATCH or MAP_DELETE_BATCH of `count` packed items. After an error any number of them may be done."""
    k, v = _buffer(keys), _buffer(values)
    at_values = ctypes.addressof(v) if values else 0
    bpf(command, struct.pack("=QQQQIIQQ", 0, 0, ctypes.addressof(k), at_values, count, fd, 0, 0))


def map_read_batch(fd: int, key_size: int, value_size: int, chunk: int = 4096) -> list[tuple[bytes, bytes]]:
    """All items of a hash map. Items that come or go meanwhile may be missed or seen; keys are whole."""
    out: list[tuple[bytes, bytes]] = []
    keys = ctypes.create_string_buffer(key_size * chunk)
    values = ctypes.create_string_buffer(value_size * chunk)
    size = max(
        key_size, 4
    )  # where to go on: of a hash a number, of a trie its last key (kernel: kernel/bpf/syscall.c)
    token_in, token_out = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    first = True
    while True:
        attr = struct.pack(
            "=QQQQIIQQ", 0 if first else ctypes.addressof(token_in), ctypes.addressof(token_out),
            ctypes.addressof(keys), ctypes.addressof(values), chunk, fd, 0, 0,
        )  # fmt: skip
        buffer = ctypes.create_string_buffer(attr.ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)
        result = _LIBC.syscall(_number(), int(Command.MAP_LOOKUP_BATCH), buffer, _ATTR_BYTES)
        code = ctypes.get_errno() if result < 0 else 0
        if code == errno.ENOSPC:  # one bucket holds more than the chunk
            return map_read_batch(fd, key_size, value_size, chunk * 4)
        if code not in (0, errno.ENOENT):
            raise OSError(code, f"bpf(MAP_LOOKUP_BATCH): {os.strerror(code)}")
        (count,) = struct.unpack_from("=I", buffer.raw, 32)
        k, v = keys.raw, values.raw
        out += [
            (k[i * key_size : (i + 1) * key_size], v[i * value_size : (i + 1) * value_size]) for i in range(count)
        ]
        if code == errno.ENOENT:
            return out
        ctypes.memmove(token_in, token_out, size)
        first = False


def pin(fd: int, path: str) -> None:
    p = _buffer(os.fsencode(path) + b"\0")
    bpf(Command.OBJ_PIN, struct.pack("=QII", ctypes.addressof(p), fd, 0))


def open_pin(path: str) -> int:
    """A descriptor of a pinned map, program or link."""
    p = _buffer(os.fsencode(path) + b"\0")
    return bpf(Command.OBJ_GET, struct.pack("=QII", ctypes.addressof(p), 0, 0))[0]


def link_create(program: int, cgroup: int, attach_type: AttachType) -> int:
    return bpf(Command.LINK_CREATE, struct.pack("=IIII", program, cgroup, attach_type, 0))[0]


def link_update(link: int, program: int) -> None:
    """Replaces the program of a link atomically."""
    bpf(Command.LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0))


def link_detach(link: int) -> None:
    """Cuts a link from its cgroup, whoever else holds it."""
    bpf(Command.LINK_DETACH, struct.pack("=I", link))


def prog_attach(target: int, program: int, attach_type: AttachType, flags: int = 0) -> None:
    """To a map of sockets, in the place of what was there; or to a cgroup, by `flags` (BPF_F_ALLOW_*) with others."""
    bpf(Command.PROG_ATTACH, struct.pack("=IIII", target, program, attach_type, flags))


def prog_detach(target: int, program: int, attach_type: AttachType) -> None:
    bpf(Command.PROG_DETACH, struct.pack("=IIII", target, program, attach_type, 0))


def prog_query(target: int, attach_type: AttachType, most: int = 16) -> tuple[int, ...]:
    """Numbers of the programs on a map of sockets."""
    numbers = (ctypes.c_uint32 * most)()
    attr = struct.pack("=IIIIQI", target, attach_type, 0, 0, ctypes.addressof(numbers), most)
    _, out = bpf(Command.PROG_QUERY, attr)
    return tuple(numbers[: struct.unpack_from("=I", out, 24)[0]])


def cgroup_query(cgroup: int, attach_type: AttachType, most: int = 64) -> tuple[tuple[int, ...], int]:
    """Numbers of the programs on a cgroup itself, and how they were attached: 0 is alone, 1 may be overridden, 2 with
    others (BPF_F_ALLOW_*).
    """
    numbers = (ctypes.c_uint32 * most)()
    attr = struct.pack("=IIIIQI", cgroup, attach_type, 0, 0, ctypes.addressof(numbers), most)
    _, out = bpf(Command.PROG_QUERY, attr)
    return tuple(numbers[: struct.unpack_from("=I", out, 24)[0]]), struct.unpack_from("=I", out, 12)[0]


def _info(fd: int, size: int) -> bytes:
    info = ctypes.create_string_buffer(size)
    bpf(Command.INFO, struct.pack("=IIQ", fd, size, ctypes.addressof(info)))
    return info.raw


@dataclass(frozen=True, slots=True)
class MapInfo:
    """struct bpf_map_info"""

    map_type: int
    id: int
    key_size: int
    value_size: int
    entries: int


def map_info(fd: int) -> MapInfo:
    return MapInfo(*struct.unpack_from("=5I", _info(fd, 80)))


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """struct bpf_prog_info. run_time_ns and run_count are zero unless statistics are on."""

    id: int
    instructions: int
    jited_bytes: int
    verified: int  # instructions the verifier walked; 0 where the kernel does not report it (before 5.16)
    run_time_ns: int
    run_count: int


def prog_info(fd: int) -> ProgInfo:
    raw = _info(fd, 232)
    _, number = struct.unpack_from("=II", raw)
    jited, translated = struct.unpack_from("=II", raw, 16)
    run_time, run_count = struct.unpack_from("=QQ", raw, 192)
    (verified,) = struct.unpack_from("=I", raw, 216)
    return ProgInfo(number, translated // 8, jited, verified, run_time, run_count)


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """struct bpf_link_info of a cgroup link. cgroup_id is 0 once the cgroup is gone."""

    id: int
    prog_id: int
    cgroup_id: int
    attach_type: int


def link_info(fd: int) -> LinkInfo:
    raw = _info(fd, 64)
    _, number, prog, _, cgroup, attach = struct.unpack_from("=IIIIQI", raw)
    return LinkInfo(number, prog, cgroup, attach)


def load_program(
    prog_type: ProgType, attach_type: int, instructions: bytes, name: str = "dagwall_probe", *, btf_id: int = 0
) -> int:
    """Loads raw instructions; its descriptor. GPL, since some helpers ask for it.

    btf_id: of the kernel's function to attach to, for types that want one; an error has the verifier's words then.
    """
    code, license_ = _buffer(instructions), _buffer(b"GPL\0")
    log = ctypes.create_string_buffer(1 << 16)
    at_log = (_LOG_STATS, len(log), ctypes.addressof(log)) if btf_id else (0, 0, 0)
    attr = struct.pack(
        "=IIQQIIQII16sIIIIQIIQII", prog_type, len(instructions) // 8, ctypes.addressof(code),
        ctypes.addressof(license_), *at_log, 0, 0, name.encode()[:_NAME_BYTES], 0, attach_type, 0, 0, 0, 0, 0, 0, 0,
        btf_id,
    )  # fmt: skip
    try:
        return bpf(Command.PROG_LOAD, attr)[0]
    except OSError as exc:
        raise OSError(exc.errno, f"{exc.strerror}\n{log.value.decode(errors='replace')}".strip()) from exc


def run_program(program: int, data: bytes = bytes(64), repeat: int = 1) -> tuple[int, int]:
    """BPF_PROG_TEST_RUN: the program's return value and its mean time in ns."""
    d = _buffer(data)
    attr = struct.pack("=IIIIQQII", program, 0, len(data), 0, ctypes.addressof(d), 0, repeat, 0)
    _, out = bpf(Command.TEST_RUN, attr)
    return int(struct.unpack_from("=I", out, 4)[0]), int(struct.unpack_from("=I", out, 36)[0])
