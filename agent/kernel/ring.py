"""Reader of a BPF ring buffer, by its memory layout (kernel: Documentation/bpf/ringbuf.rst)."""

from __future__ import annotations

import mmap
import os
import select
import struct
from collections.abc import Iterator

from agent.kernel import syscall

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8


class RingBuffer:
    """The only consumer of one ring buffer. Records come in the order in which they were reserved."""

    def __init__(self, fd: int) -> None:
        self.map_fd = fd
        self._size = syscall.map_info(fd).entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer = mmap.mmap(fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._poll = select.poll()  # epoll(7) bounds its watches for each uid: others of it could take them all
        self._poll.register(fd, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """True when there may be records."""
        return bool(self._poll.poll(seconds * 1000))

    def fileno(self) -> int:
        return self.map_fd

    def read(self, limit: int = 4096) -> Iterator[bytes]:
        """Records that are complete, `limit` at most; each is freed when the next one is asked for."""
        page = mmap.PAGESIZE
        position = self._position(self._consumer)
        for _ in range(limit):
            if position >= self._position(self._producer):
                return
            at = page + (position & (self._size - 1))
            (head,) = struct.unpack_from("=I", self._producer, at)
            if head & _BUSY:
                return
            length = head & ~(_BUSY | _DISCARDED)
            if not head & _DISCARDED:
                yield self._producer[at + _HEADER : at + _HEADER + length]
            position += (length + _HEADER + 7) & ~7
            struct.pack_into("=Q", self._consumer, 0, position)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
        os.close(self.map_fd)

    @staticmethod
    def _position(area: mmap.mmap) -> int:
        return int(struct.unpack_from("=Q", area, 0)[0])
