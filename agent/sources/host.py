"""What this machine itself knows: its addresses, the agent's own cgroup, and the kubelet's log folders."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from agent.model.cluster import Address, Name
from agent.model.identity import PodUid
from agent.model.settle import parse_log_folder

LOG_FOLDERS = Path("/var/log/pods")


def own_cgroup(mount: Path) -> int:
    """Inode of the agent's own cgroup, which it must never lock; 0 at the root of the hierarchy, or outside of it."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        if line.startswith("0::"):
            path = mount / line[3:].lstrip("/")
            return path.stat().st_ino if path.is_dir() and path != mount else 0
    return 0


def host_addresses() -> tuple[Address, ...]:
    """All addresses of this network namespace but loopback: bridges and gateways included, as pods see them (P12).

    Without fe80::/10: every pod's veth brings one, nothing routes to them, and each change costs a whole compile.
    """
    with IPRoute() as netlink:
        return addresses_of(netlink.get_addr())


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


def addresses_of(messages: Iterable[Any]) -> tuple[Address, ...]:
    """Addresses in RTM_NEWADDR messages, sorted. Where IFA_LOCAL is given it is ours; IFA_ADDRESS may be a peer's."""
    texts = {message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in messages}
    found = {ip_address(text) for text in texts if text}
    ours = (a for a in found if not a.is_loopback and not (a.version == 6 and a.is_link_local))
    return tuple(sorted(ours, key=lambda a: (a.version, int(a))))


def log_folders(path: Path = LOG_FOLDERS) -> dict[PodUid, Name]:
    """(namespace, name) of this node's pods by uid, without any API (L2c). Empty where there is no kubelet."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return {}
    return dict(found for name in names if (found := parse_log_folder(name)) is not None)
