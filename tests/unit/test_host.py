"""This machine's addresses and log folders."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from agent.sources.host import addresses_of, host_addresses, log_folders

UID = "cc7a1de5-1bf8-4567-ae3a-697995d1d600"


class Message(dict[str, str]):
    """A netlink message as far as addresses go."""

    def get_attr(self, name: str) -> str | None:
        return self.get(name)


def test_addresses_of_messages() -> None:
    messages = [
        Message(IFA_ADDRESS="127.0.0.1", IFA_LOCAL="127.0.0.1"),
        Message(IFA_ADDRESS="10.9.9.9", IFA_LOCAL="10.0.0.2"),
        Message(IFA_ADDRESS="fd00::2"),
        Message(IFA_ADDRESS="::1"),
        Message(IFA_ADDRESS="fe80::1234"),  # of a pod's veth
        Message(IFA_ADDRESS="169.254.25.10"),  # node-local DNS
        Message(),
    ]
    assert addresses_of(messages) == tuple(map(ip_address, ("10.0.0.2", "169.254.25.10", "fd00::2")))


def test_this_host_has_no_loopback_among_its_addresses() -> None:
    assert not any(address.is_loopback for address in host_addresses())


def test_log_folders(tmp_path: Path) -> None:
    (tmp_path / f"etl_p_{UID}").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / f"etl_file_{UID}").touch()
    assert log_folders(tmp_path) == {UID: ("etl", "p")}
    assert log_folders(tmp_path / "none") == {}
