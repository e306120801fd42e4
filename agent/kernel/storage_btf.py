"""Types of a map's key and value, as the kernel wants them of socket storage (kernel: Documentation/bpf/btf.rst).

It compares sizes only (kernel/bpf/syscall.c, map_check_btf), and wants the key to be an int of 32 bits
(kernel/bpf/bpf_local_storage.c): the value is so many bytes here.
"""

from __future__ import annotations

import struct

KEY, _BYTE, VALUE = 1, 2, 3
"""Numbers of the types, in their order; VALUE: an array of bytes."""
_MAGIC, _VERSION = 0xEB9F, 1
_INT, _ARRAY = 1 << 24, 3 << 24
_NAMES = b"\0int\0char\0"


def storage_types(value_size: int) -> bytes:
    """What BPF_BTF_LOAD takes."""
    types = struct.pack("=IIII", _NAMES.index(b"int"), _INT, 4, 1 << 24 | 32)  # signed
    types += struct.pack("=IIII", _NAMES.index(b"char"), _INT, 1, 8)
    types += struct.pack("=IIIIII", 0, _ARRAY, 0, _BYTE, KEY, value_size)
    header_bytes = 24
    header = struct.pack("=HBBIIIII", _MAGIC, _VERSION, 0, header_bytes, 0, len(types), len(types), len(_NAMES))
    return header + types + _NAMES
