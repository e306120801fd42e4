"""Where fields of the kernel's structs are, from its BTF (kernel: Documentation/bpf/btf.rst), read by bcc's libbpf.

Programs read them by bpf_probe_read_kernel(): the layout is this kernel's own, and no headers are needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping

LIBBPF = "libbpf.so.1"
_STRUCT = 4
_NETWORK_OWNER = {
    "SOCK_NET_OFFSET": ("sock_common", "skc_net"), "NET_USER_NS_OFFSET": ("net", "user_ns"),
    "USER_NS_LEVEL_OFFSET": ("user_namespace", "level"),
}  # fmt: skip
_SOCKET_ERROR = {
    "SOCK_OPS_SK_OFFSET": ("bpf_sock_ops_kern", "sk"), "SK_ERR_OFFSET": ("sock", "sk_err"),
    "SK_ERROR_QUEUE_OFFSET": ("sock", "sk_error_queue"), "SKB_CB_OFFSET": ("sk_buff", "cb"),
    "EXTERR_OFFSET": ("sock_exterr_skb", "ee"),
}  # fmt: skip
_SHARED_FRAGS = {"SKB_HEAD_OFFSET": ("sk_buff", "head"), "SKB_END_OFFSET": ("sk_buff", "end")}
_WRITE_SEQ = {"WRITE_SEQ_OFFSET": ("tcp_sock", "write_seq")}


class _Member(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


class _Type(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


def network_owner() -> dict[str, int]:
    """Macros for bpf/dns.c: from a socket to its network namespace, to that one's user namespace, to its level.

    Raises OSError where the kernel has no types, or not these, or libbpf is not there.
    """
    return _offsets(_NETWORK_OWNER)


def socket_error() -> dict[str, int]:
    """Macros for bpf/sockops.c: from its context to the socket, to the error that its task gets. Raises the same."""
    return _offsets(_SOCKET_ERROR)


def write_seq() -> dict[str, int]:
    """Macro for bpf/hello_fields.c: where a TCP socket has the number of its next byte. Raises the same."""
    return _offsets(_WRITE_SEQ)


def shared_frags() -> dict[str, int]:
    """Macros for bpf/request_read.c: from a packet to its flags, and which of them says that its pages are not
    TCP's own (SKBFL_SHARED_FRAG; before 5.12 SKBTX_SHARED_FRAG). Raises the same."""
    found = _offsets(_SHARED_FRAGS)
    try:
        flags = _offsets({"SHARED_FRAG_OFFSET": ("skb_shared_info", "flags")}) | {"SHARED_FRAG": 1 << 1}
    except OSError:
        flags = _offsets({"SHARED_FRAG_OFFSET": ("skb_shared_info", "tx_flags")}) | {"SHARED_FRAG": 1 << 5}
    return found | flags


def _offsets(wanted: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    library = ctypes.CDLL(LIBBPF)
    library.btf__load_vmlinux_btf.restype = ctypes.c_void_p
    library.btf__type_by_id.restype = ctypes.c_void_p
    library.btf__name_by_offset.restype = ctypes.c_char_p
    types = ctypes.c_void_p(library.btf__load_vmlinux_btf())
    if not types.value or types.value > (1 << 64) - 4096:  # a pointer, or an error number
        raise OSError("the kernel has no BTF")
    try:
        return {name: _offset(library, types, *field) for name, field in wanted.items()}
    finally:
        library.btf__free(types)


def _offset(library: ctypes.CDLL, types: ctypes.c_void_p, struct: str, field: str) -> int:
    number = int(library.btf__find_by_name_kind(types, struct.encode(), _STRUCT))
    at = library.btf__type_by_id(types, number) if number > 0 else None
    for member in _members(at) if at else ():
        if library.btf__name_by_offset(types, member.name) == field.encode():
            return int(member.offset & 0xFFFFFF) // 8  # its upper byte is the size of a bit field
    raise OSError(f"the kernel's BTF has no {struct}.{field}")


def _members(at: int) -> Iterator[_Member]:
    count = _Type.from_address(at).info & 0xFFFF
    first = at + ctypes.sizeof(_Type)
    return (_Member.from_address(first + i * ctypes.sizeof(_Member)) for i in range(count))
