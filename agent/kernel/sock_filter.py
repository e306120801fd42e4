"""Which sockets sock_diag(7) lists: programs for INET_DIAG_REQ_BYTECODE; the kernel leaves out what nobody wants.

Source: inet_diag_bc_run() and inet_diag_bc_audit() of net/ipv4/inet_diag.c. Each step goes on to the next one, or
jumps forward: to the end, which takes the socket, or four bytes past it, which leaves it out.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network

_JUMP, _REMOTE, _LOCAL_PORT_IS = 1, 8, 11
_STEP = struct.Struct("=BBH")
_HOST = struct.Struct("=BBxxi")
_ANY_PORT = -1
_PAST_THE_END = 4

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of a connection as one side sees it."""

    local_port: int
    peer: IPv6Address  # IPv4 is mapped
    peer_port: int


def any_of(wanted: Iterable[Ends]) -> bytes:
    """Sockets between these ends, whatever their own address."""
    tests = [[_local_port(each.local_port), _remote(_host(each.peer), each.peer_port)] for each in wanted]
    sizes = [sum(map(len, test)) + _STEP.size for test in tests]
    program = b""
    for number, test in enumerate(tests):
        following, after = sizes[number], sum(sizes[number + 1 :])
        otherwise = following if after else following + _PAST_THE_END
        for step in test:
            program += _with_jump(step, otherwise)
            otherwise -= len(step)
        program += _STEP.pack(_JUMP, _STEP.size, _STEP.size + after)
    return program


def none_to(networks: Iterable[Network]) -> bytes:
    """Sockets whose other end is in none of these."""
    program = b""
    for network in reversed(list(networks)):
        leave = _STEP.pack(_JUMP, _STEP.size, _STEP.size + len(program) + _PAST_THE_END)
        step = _remote(network, _ANY_PORT)
        program = _with_jump(step, len(step) + len(leave)) + leave + program
    return program


def _host(address: IPv6Address) -> Network:
    return IPv4Network(address.ipv4_mapped) if address.ipv4_mapped else IPv6Network(address)


def _local_port(port: int) -> bytes:
    return _STEP.pack(_LOCAL_PORT_IS, 2 * _STEP.size, 0) + _STEP.pack(0, 0, port)


def _remote(network: Network, port: int) -> bytes:
    """An IPv4 network has the mapped addresses of IPv6 sockets, too."""
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    condition = _HOST.pack(family, network.prefixlen, port) + network.network_address.packed
    return _STEP.pack(_REMOTE, _STEP.size + len(condition), 0) + condition


def _with_jump(step: bytes, otherwise: int) -> bytes:
    code, size, _ = _STEP.unpack_from(step)
    return _STEP.pack(code, size, otherwise) + step[_STEP.size :]
