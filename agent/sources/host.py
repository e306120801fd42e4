"""What this machine itself knows: its addresses, the agent's own cgroup, and the kubelet's log folders."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from agent.model.classify import parse_log_folder
from agent.model.cluster import Address, Name
from agent.model.identity import PodUid

LOG_FOLDERS = Path("/var/log/pods")
DNS_INTERFACE = "nodelocaldns"
HOLDERS = frozenset({"kube-ipvs0", "kube-dummy-if", DNS_INTERFACE})
"""Interfaces that hold addresses for others: of services (kube-proxy's IPVS mode, kube-router), of node-local DNS."""
_FE80 = ip_network("fe80::/10")


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """Of this network namespace: `own` as its pods see them (P12), `dns` where node-local DNS listens."""

    own: tuple[Address, ...] = ()
    dns: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Interface:
    """A link: its name, and its kind as rtnetlink has it ("" for hardware)."""

    name: str
    kind: str = ""


def own_cgroup(mount: Path) -> int:
    """Inode of the agent's own cgroup, which it must never lock; 0 at the root of the hierarchy, or outside of it."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        if line.startswith("0::"):
            path = mount / line[3:].lstrip("/")
            return path.stat().st_ino if path.is_dir() and path != mount else 0
    return 0


def host_addresses() -> HostAddresses:
    """What `addresses_of` makes of the addresses that the kernel has now."""
    with IPRoute() as netlink:
        return addresses_of(netlink.get_addr(), interfaces_of(netlink.get_links()))


def interfaces_of(messages: Iterable[Any]) -> dict[int, Interface]:
    """Links in RTM_NEWLINK messages, by index."""
    found = {}
    for message in messages:
        details = message.get_attr("IFLA_LINKINFO")
        kind = details.get_attr("IFLA_INFO_KIND") if details is not None else None
        found[message["index"]] = Interface(message.get_attr("IFLA_IFNAME") or "", kind or "")
    return found


class AddressWatch:
    """Tells whether an address of this network namespace came or went: the CNI makes its bridge with the first pod.

    Source: rtnetlink(7), linux/rtnetlink.h (RTMGRP_*).
    """

    _GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, self._GROUPS))

    def changed(self) -> bool:
        """Since the last call. Messages that did not fit into the socket are a change as well."""
        found = False
        while True:
            try:
                found |= bool(self._socket.recv(65536))
            except BlockingIOError:
                return found
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                found = True

    def close(self) -> None:
        self._socket.close()


def addresses_of(messages: Iterable[Any], interfaces: Mapping[int, Interface]) -> HostAddresses:
    """Addresses in RTM_NEWADDR messages, sorted: bridges and gateways included, loopback left out, and what an
    interface holds for others.

    Where IFA_LOCAL is given it is ours; IFA_ADDRESS may be a peer's. What is sent to a subnet's broadcast address
    reaches this host's daemons like what is sent to the address itself (fib_add_ifaddr() makes one of each prefix of
    less than 31 bits, whether it is configured or not). Without fe80::/10 of veths: every pod brings
    one, each change would cost a whole compile, and deny rules cover that range anyway.
    """
    own, dns = set[Address](), set[Address]()
    for message in messages:
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        interface = interfaces.get(message["index"], Interface(""))
        address = ip_address(text) if text else None
        if address is None or address.is_loopback:
            continue
        if interface.name == DNS_INTERFACE and not (address.version == 6 and address.is_link_local):
            dns.add(address)
        elif interface.name not in HOLDERS and not (address in _FE80 and interface.kind == "veth"):
            own.add(address)
            own.update(_broadcasts(message, address))
    return HostAddresses(_sorted(own), _sorted(dns))


def _broadcasts(message: Any, address: Address) -> Iterator[Address]:
    """Of the subnet that comes with an address: the last one in it, and what is configured."""
    length = message.get("prefixlen", 32)
    if address.version == 4 and length < 31:
        yield ip_network((address, length), strict=False).broadcast_address
        if configured := message.get_attr("IFA_BROADCAST"):
            yield ip_address(configured)


def _sorted(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(sorted(addresses, key=lambda a: (a.version, int(a))))


def log_folders(path: Path = LOG_FOLDERS) -> dict[PodUid, Name]:
    """(namespace, name) of this node's pods by uid, without any API (L2c). Empty where there is no kubelet."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return {}
    return dict(found for name in names if (found := parse_log_folder(name)) is not None)
