"""This host's addresses by the kernel's own messages, in a network namespace made for the test (P12)."""

from __future__ import annotations

import os
import subprocess
from ipaddress import ip_address

from agent.sources.host import host_addresses
from lab.node import in_netns

LINKS = """\
link add kube-ipvs0 type bridge
addr add 10.96.0.77/32 dev kube-ipvs0
link add nodelocaldns type bridge
addr add 169.254.20.10/32 dev nodelocaldns
addr add 10.96.0.10/32 dev nodelocaldns
link add cni0 type bridge
link set cni0 up
addr add 10.244.0.1/24 dev cni0
addr add fe80::77/64 dev cni0 nodad
link add pod0 type veth peer name pod1
addr add fe80::99/64 dev pod0 nodad
"""


def test_what_an_interface_holds_for_others_is_not_the_node_s() -> None:
    name = f"dagwall-host-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "-batch", "-"], input=LINKS.encode(), check=True)
        with in_netns(name):
            found = host_addresses()
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    assert ip_address("10.244.0.1") in found.own
    assert ip_address("10.244.0.255") in found.own, "the same daemons hear what is sent there (P12)"
    assert ip_address("fe80::77") in found.own
    held = {ip_address(a) for a in ("10.96.0.77", "10.96.0.10", "169.254.20.10", "fe80::99")}
    assert not held & set(found.own)
    assert found.dns == (ip_address("10.96.0.10"), ip_address("169.254.20.10"))
