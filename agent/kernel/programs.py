"""The programs of bpf/, their hooks and their source text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.abi.checks import claims, static_assertions
from agent.abi.structs import EVENTS_BYTES, MAPS, STRUCTS
from agent.kernel.btf import network_owner, shared_frags, socket_error, write_seq
from agent.kernel.grammar import states
from agent.kernel.syscall import AttachType, ProgType

SHARED_SOURCES = (
    "maps.c", "record.c", "names.c", "endpoint.c", "judge.c", "flow.c", "datagrams.c", "tails.c", "outcome.c",
)  # fmt: skip
"""What several programs call; in this order, in front of their own files."""
PROMOTE_PACKETS = 256
"""Of so many packets of a flow, one copies it into its socket's storage; a power of two."""

_COMPILED = ("set_retval", "skb_netns", "netns_owner", "sock_error", "write_seq", "shared_frags")
"""Features that programs use where the kernel has them, in place of another way."""

WARNINGS = ("-Wno-unused", "-Wno-macro-redefined")
"""cflags that keep the compiler's output to what matters."""
_INCLUDES = "#include <uapi/linux/bpf.h>\n#include <uapi/linux/ip.h>\n#include <uapi/linux/ipv6.h>\n"


@dataclass(frozen=True, slots=True)
class OnCgroup:
    """A hook of every cgroup that is a root of pods."""


@dataclass(frozen=True, slots=True)
class OnMap:
    """A hook of the sockets that are in a map of bpf/maps.c: a sockhash."""

    name: str


@dataclass(frozen=True, slots=True)
class Tail:
    """No hook: entry `index` of an array of programs, which another program calls."""

    array: str
    index: int


Target = OnCgroup | OnMap | Tail


@dataclass(frozen=True, slots=True)
class Program:
    """One function of bpf/`source`, and where it sits.

    `needs`: the name of the Feature without which a kernel does not have its hook.
    """

    name: str
    source: str
    prog_type: ProgType
    attach_type: AttachType
    target: Target = OnCgroup()
    needs: str = ""


PROGRAMS = (
    Program("datagram_ingress", "slow.c", ProgType.CGROUP_SKB, AttachType.INET_INGRESS, Tail("tail_ingress", 0)),
    Program("datagram_egress", "slow.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 0)),
    Program("stream_ingress", "slow.c", ProgType.CGROUP_SKB, AttachType.INET_INGRESS, Tail("tail_ingress", 2)),
    Program("stream_egress", "slow.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 2)),
    Program("named_ingress", "slow.c", ProgType.CGROUP_SKB, AttachType.INET_INGRESS, Tail("tail_ingress", 5)),
    Program("named_egress", "slow.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 5)),
    Program("hello_egress", "hello.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 6)),
    Program("hello_fields", "hello_fields.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 9)),
    Program("hello_name", "hello_name.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 8)),
    Program("greeted_egress", "greeted.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 7)),
    Program("request_egress", "request.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 11)),
    Program("request_read", "request_read.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 12)),
    Program("request_match", "request_match.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 13)),
    Program("requested_egress", "requested.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 14)),
    Program("dns_question", "dns.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS, Tail("tail_egress", 1)),
    Program("dns_answer", "dns.c", ProgType.CGROUP_SKB, AttachType.INET_INGRESS, Tail("tail_ingress", 1)),
    Program("dns_learn", "dns.c", ProgType.CGROUP_SKB, AttachType.INET_INGRESS, Tail("tail_ingress", 3)),
    Program("dns_report", "dns.c", ProgType.CGROUP_SKB, AttachType.INET_INGRESS, Tail("tail_ingress", 4)),
    Program("answered", "answer.c", ProgType.CGROUP_SKB, AttachType.INET_INGRESS, Tail("tail_ingress", 10)),
    Program("ingress", "skb.c", ProgType.CGROUP_SKB, AttachType.INET_INGRESS),
    Program("sock_release", "sock.c", ProgType.CGROUP_SOCK, AttachType.SOCK_RELEASE),
    Program("sock_create", "sock.c", ProgType.CGROUP_SOCK, AttachType.SOCK_CREATE),
    Program("socket_create", "lsm.c", ProgType.LSM, AttachType.LSM_CGROUP, needs="lsm_cgroup"),
    Program("connect4", "connect.c", ProgType.CGROUP_SOCK_ADDR, AttachType.CONNECT4),
    Program("connect6", "connect.c", ProgType.CGROUP_SOCK_ADDR, AttachType.CONNECT6),
    Program("sendmsg4", "sendmsg.c", ProgType.CGROUP_SOCK_ADDR, AttachType.SENDMSG4),
    Program("sendmsg6", "sendmsg.c", ProgType.CGROUP_SOCK_ADDR, AttachType.SENDMSG6),
    Program("egress", "skb.c", ProgType.CGROUP_SKB, AttachType.INET_EGRESS),
    Program("sockops", "sockops.c", ProgType.SOCK_OPS, AttachType.SOCK_OPS, needs="sockops"),
)
"""In the order in which they are attached; their files are compiled in the order of their first program."""

HOOKS = tuple(program for program in PROGRAMS if not isinstance(program.target, Tail))
TAIL_ARRAYS = tuple(dict.fromkeys(program.target.array for program in PROGRAMS if isinstance(program.target, Tail)))
SOURCES = tuple(dict.fromkeys((*SHARED_SOURCES, *(program.source for program in PROGRAMS))))


def source_folder() -> Path:
    """bpf/ of the checkout, or its copy inside the installed package."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "bpf", package.parent / "bpf") if (folder / "types.h").exists())


def source_text(folder: Path) -> str:
    """All of bpf/ as one translation unit; #line makes errors name the real files. Ends with the ABI's assertions."""
    parts = [_INCLUDES, '#include "policy.h"\n']
    for name in SOURCES:
        path = folder / name
        parts.append(f'#line 1 "{path}"\n{path.read_text(encoding="utf-8")}\n')
    lines = [line for layout in STRUCTS for line in claims(layout)]
    parts.append(f'#line 1 "agent/abi/structs.py"\n{static_assertions(lines)}\n')
    return "".join(parts)


def compiler_macros(entries: dict[str, int], features: Mapping[str, bool], *, promote_packets: int) -> list[str]:
    """cflags for bcc that the programs depend on: sizes of the maps, and what the kernel has."""
    sizes = {name: spec.entries for name, spec in MAPS.items() if spec.resizable}
    unknown = entries.keys() - sizes.keys() - {"events"}
    if unknown:
        raise ValueError(f"no such map: {', '.join(sorted(unknown))}")
    sizes.update({name: size for name, size in entries.items() if name != "events"})
    flags = [f"-DEVENTS_BYTES={entries.get('events', EVENTS_BYTES)}", f"-DPROMOTE_PACKETS={promote_packets}"]
    flags += [f"-D{name.upper()}_ENTRIES={size}" for name, size in sizes.items()]
    flags += [f"-DHAVE_{name.upper()}=1" for name in _COMPILED if features[name]]
    if features["netns_owner"]:
        flags += [f"-D{name}={offset}" for name, offset in network_owner().items()]
    if features["sock_error"]:
        flags += [f"-D{name}={offset}" for name, offset in socket_error().items()]
    flags += [f"-D{name}={number}" for name, number in states().items()]
    if features["shared_frags"]:
        flags += [f"-D{name}={value}" for name, value in shared_frags().items()]
    if features["write_seq"]:
        flags += [f"-D{name}={offset}" for name, offset in write_seq().items()]
    return flags
