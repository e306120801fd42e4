"""This machine's addresses and log folders."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.sources.host import HostAddresses, Interface, addresses_of, host_addresses, interfaces_of, log_folders

UID = "cc7a1de5-1bf8-4567-ae3a-697995d1d600"


class Message(dict[str, Any]):
    """A netlink message as far as addresses go."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


def test_addresses_of_messages() -> None:
    """P12: what an interface holds for others is not the node's, its link-local addresses are."""
    names = ("lo", "eth0", "cni0", "veth1", "kube-ipvs0", "nodelocaldns", "kube-dummy-if", "dummy0")
    kinds = ("", "", "bridge", "veth", "dummy", "dummy", "dummy", "dummy")
    links = [
        Message(index=i, IFLA_IFNAME=name, IFLA_LINKINFO=Message(IFLA_INFO_KIND=kind) if kind else None)
        for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    interfaces = interfaces_of(links)
    assert interfaces[2] == Interface("cni0", "bridge")
    messages = [
        Message(index=0, IFA_ADDRESS="127.0.0.1", IFA_LOCAL="127.0.0.1"),
        Message(index=0, IFA_ADDRESS="::1"),
        Message(index=1, IFA_ADDRESS="10.9.9.9", IFA_LOCAL="10.0.0.2"),
        Message(index=1, IFA_ADDRESS="fd00::2", prefixlen=64),
        Message(index=2, IFA_LOCAL="10.244.0.1", IFA_BROADCAST="10.244.0.127", prefixlen=24),
        Message(index=2, IFA_LOCAL="10.245.0.1", prefixlen=32),
        Message(index=2, IFA_ADDRESS="fe80::1"),
        Message(index=3, IFA_ADDRESS="fe80::1234"),
        Message(index=4, IFA_ADDRESS="10.96.0.1"),
        Message(index=4, IFA_ADDRESS="192.0.2.9"),
        Message(index=5, IFA_ADDRESS="169.254.20.10"),
        Message(index=5, IFA_ADDRESS="10.96.0.10"),
        Message(index=5, IFA_ADDRESS="fe80::5"),
        Message(index=6, IFA_ADDRESS="10.96.0.2"),
        Message(index=7, IFA_ADDRESS="203.0.113.1"),
        Message(index=9, IFA_ADDRESS="10.0.0.3"),
        Message(index=1),
    ]
    own = (
        "10.0.0.2", "10.0.0.3", "10.244.0.1", "10.244.0.127", "10.244.0.255", "10.245.0.1", "203.0.113.1", "fd00::2",
        "fe80::1",
    )  # fmt: skip
    assert addresses_of(messages, interfaces) == HostAddresses(
        own=tuple(map(ip_address, own)),
        dns=tuple(map(ip_address, ("10.96.0.10", "169.254.20.10"))),
    )


def test_this_host_has_no_loopback_among_its_addresses() -> None:
    assert not any(address.is_loopback for address in host_addresses().own)


def test_log_folders(tmp_path: Path) -> None:
    (tmp_path / f"etl_p_{UID}").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / f"etl_file_{UID}").touch()
    assert log_folders(tmp_path) == {UID: ("etl", "p")}
    assert log_folders(tmp_path / "none") == {}
