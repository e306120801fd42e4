"""A pinned map as packed keys and values, in batches where the kernel has them."""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Iterable, Sequence

from agent.abi.layout import U64_MASK
from agent.abi.structs import MapSpec
from agent.errors import MapError
from agent.kernel import syscall
from agent.kernel.grace import wait_for_programs
from agent.kernel.syscall import Command

Item = tuple[bytes, bytes]
_CHUNK = 8192


class KernelMap:
    """One map by its descriptor. Keys and values are packed by agent/abi; sizes are checked when it is opened."""

    def __init__(self, name: str, fd: int, spec: MapSpec) -> None:
        info = syscall.map_info(fd)
        if (info.key_size, info.value_size) != (spec.key.size, spec.value.size):
            raise MapError(
                f"map {name}: keys of {info.key_size} and values of {info.value_size} bytes, expected "
                f"{spec.key.size} and {spec.value.size}: made by another version of dagwall"
            )
        self.name, self.fd, self.spec = name, fd, spec
        self.entries = info.entries
        self._batches = True

    def get(self, key: bytes) -> bytes | None:
        """The packed value, or None. Of a per-CPU map: the values of all possible CPUs in a row."""
        size = self.spec.value.size * (possible_cpus() if self.spec.per_cpu else 1)
        return syscall.map_lookup(self.fd, key, size)

    def put(self, key: bytes, value: bytes) -> None:
        try:
            syscall.map_update(self.fd, key, value)
        except OSError as exc:
            raise MapError(f"map {self.name}: update key={key.hex()}: {exc.strerror}") from exc

    def delete(self, key: bytes) -> bool:
        """False where it was not there."""
        return syscall.map_delete(self.fd, key)

    def put_all(self, items: Iterable[Item]) -> None:
        """Many updates, in order."""
        pending = list(items)
        for at in range(0, len(pending), _CHUNK):
            self._put_chunk(pending[at : at + _CHUNK])

    def delete_all(self, keys: Iterable[bytes]) -> None:
        """Many deletions; keys that are not there are no error."""
        for key in keys:
            syscall.map_delete(self.fd, key)

    def wait_for_readers(self) -> None:
        """Until no program runs that has read any map before this call."""
        try:
            wait_for_programs()
        except OSError as exc:
            raise MapError(f"map {self.name}: wait for running programs: {exc.strerror}") from exc

    def items(self) -> list[Item]:
        """Everything in it, of a map that is not per CPU."""
        if self._batches:
            try:
                return syscall.map_read_batch(self.fd, self.spec.key.size, self.spec.value.size)
            except OSError as exc:
                if exc.errno not in (syscall.ENOTSUPP, errno.EINVAL, errno.EOPNOTSUPP):
                    raise MapError(f"map {self.name}: read: {exc.strerror}") from exc
        found = ((key, self.get(key)) for key in self.keys())
        return [(key, value) for key, value in found if value is not None]

    def keys(self) -> list[bytes]:
        out: list[bytes] = []
        key = syscall.map_next_key(self.fd, None, self.spec.key.size)
        while key is not None:
            out.append(key)
            key = syscall.map_next_key(self.fd, key, self.spec.key.size)
        return out

    def close(self) -> None:
        os.close(self.fd)

    def _put_chunk(self, items: Sequence[Item]) -> None:
        """One by one where the kernel has no batches for this map.

        All of them then: the kernel leaves the count of a batch that it refuses as it was.
        """
        if self._batches and len(items) > 4:
            keys, values = b"".join(k for k, _ in items), b"".join(v for _, v in items)
            try:
                syscall.map_batch(Command.MAP_UPDATE_BATCH, self.fd, keys, values, len(items))
            except OSError as exc:
                if exc.errno not in (syscall.ENOTSUPP, errno.EINVAL, errno.EOPNOTSUPP):
                    raise MapError(f"map {self.name}: update of {len(items)}: {exc.strerror}") from exc
                self._batches = False
            else:
                return
        for key, value in items:
            self.put(key, value)


def sum_per_cpu(value: bytes, words: int) -> tuple[int, ...]:
    """Per-CPU values of `words` u64 each, added up modulo 2^64.

    One CPU's value may be below zero, that is near 2^64: two that flush a counter at once both subtract it, and what
    is too much is added on a third (bpf/skb.c, counter_take).
    """
    columns = struct.unpack(f"={len(value) // 8}Q", value)
    return tuple(sum(columns[word::words]) & U64_MASK for word in range(words))


@functools.cache
def possible_cpus() -> int:
    """Number of CPUs that the kernel sizes per-CPU values for (sysfs: `0-3`, `0,2-5`)."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        last = file.read().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1
