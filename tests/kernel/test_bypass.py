"""Ways around the firewall, each with the control that it works when it is allowed."""

from __future__ import annotations

import array
import errno
import os
import platform
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.abi.structs import FLAG_AUDIT_SOCKETS, FLAG_RAW_SOCKETS
from agent.kernel import lsm
from agent.kernel.instructions import EXIT, set_register
from agent.model.verdict import DropReason, EndpointState, EventKind, Hook, Verdict
from lab.node import in_netns, join_cgroup
from tests.kernel import sockets as s
from tests.kernel.rig import ICMP, SCTP, TCP, UDP, Rig, eventually
from tests.releases import version_of

pytestmark = pytest.mark.core
V4, V6 = "192.0.2.2", "2001:db8::2"
REFUSED = ("EACCES", "EPERM")


@pytest.mark.parametrize(
    ("way", "port"),
    [(s.fast_open, 7101), (s.multipath, 7102), (s.by_uring, 7103), (s.tcp, 7104)],
    ids=["fast_open", "mptcp", "io_uring", "connect"],
)
def test_every_way_to_open_tcp_is_judged(rig: Rig, way: object, port: int) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    server = rig.node.serve(V4, port)
    outcome = pod.run(way, V4, port)
    if outcome == "EPROTONOSUPPORT":
        return  # no such protocol in this kernel: nothing to get around with
    assert outcome in REFUSED
    assert server.received == []
    rig.rule(ruleset, V4, TCP, port)
    assert pod.run(way, V4, port) == "ok"
    assert rig.flows(slot)


@pytest.mark.parametrize(
    ("way", "port"), [(s.udp, 7111), (s.message, 7112), (s.many_datagrams, 7113), (s.udp_connected, 7114)]
)
def test_every_way_to_send_a_datagram_is_judged(rig: Rig, way: object, port: int) -> None:
    pod = rig.node.add_pod()
    _, ruleset = rig.manage(pod)
    server = rig.node.serve(V4, port, socket.SOCK_DGRAM)
    assert pod.run(way, V4, port) == "EPERM"
    assert server.received == []
    rig.rule(ruleset, V4, UDP, port)
    assert pod.run(way, V4, port) == "ok"
    assert eventually(lambda: len(server.received) >= 1)


def test_a_connected_datagram_socket_cannot_send_elsewhere(rig: Rig) -> None:
    pod = rig.node.add_pod()
    _, ruleset = rig.manage(pod)
    rig.node.serve(V4, 7115, socket.SOCK_DGRAM)
    other = rig.node.serve(V4, 7116, socket.SOCK_DGRAM)
    rig.rule(ruleset, V4, UDP, 7115)
    assert pod.run(_connected_then_elsewhere, V4, 7115, 7116) == ("ok", "EPERM")
    assert other.received == []


class TestReplies:
    """P9: an answer is one only while the flow that asked is live."""

    def test_an_outgoing_datagram_needs_the_question(self, rig: Rig) -> None:
        pod = rig.node.add_pod()
        slot, _ = rig.manage(pod, ingress=Verdict.ALLOW)
        peer = rig.node.serve(V4, 7121, socket.SOCK_DGRAM)
        assert pod.run(s.udp, V4, 7121, 1.0, 7120) == "EPERM"
        assert peer.received == []
        assert rig.denials(slot) == {DropReason.NO_RULE: 1}

    def test_an_answer_passes_and_only_to_who_asked(self, rig: Rig) -> None:
        pod = rig.node.add_pod()
        rig.manage(pod, ingress=Verdict.ALLOW)
        asker = rig.node.serve(V4, 7122, socket.SOCK_DGRAM)
        bystander = rig.node.serve(V4, 7123, socket.SOCK_DGRAM)
        pod.spawn(_answer_and_more, 7124, V4, 7123)
        time.sleep(0.3)
        asker.sendto(b"question", pod.ipv4, 7124)
        assert eventually(lambda: (b"answer", pod.ipv4) in asker.received)
        assert (b"and more", pod.ipv4) not in bystander.received

    def test_a_late_answer_is_denied_and_the_reason_says_so(self, rig: Rig) -> None:
        pod = rig.node.add_pod()
        slot, _ = rig.manage(pod, ingress=Verdict.ALLOW)
        asker = rig.node.serve(V4, 7125, socket.SOCK_DGRAM)
        rig.configure(reply_ticks=rig.hz // 5)
        try:
            pod.spawn(_answer_late, 7126, 0.6)
            time.sleep(0.3)
            asker.sendto(b"question", pod.ipv4, 7126)
            assert eventually(lambda: rig.denials(slot).get(DropReason.NOT_A_REPLY) == 1)
        finally:
            rig.configure()
        assert asker.received == []

    def test_an_incoming_datagram_needs_the_question(self, rig: Rig) -> None:
        pod = rig.node.add_pod()
        slot, ruleset = rig.manage(pod)
        rig.rule(ruleset, V4, UDP, 7127)
        peer = rig.node.serve(V4, 7127, socket.SOCK_DGRAM)
        pod.spawn(_listen_udp, 7128)
        assert refused(rig, slot, lambda: peer.sendto(b"unasked", pod.ipv4, 7128))
        assert pod.run(s.udp, V4, 7127) == "ok"

    def test_an_incoming_answer_goes_to_the_port_that_asked(self, rig: Rig) -> None:
        pod = rig.node.add_pod()
        slot, ruleset = rig.manage(pod)
        rig.rule(ruleset, V4, UDP, 7129)
        peer = rig.node.serve(V4, 7129, socket.SOCK_DGRAM)
        pod.spawn(_listen_udp, 7130)
        assert pod.run(s.udp, V4, 7129, 1.0, 7131) == "ok"
        assert refused(rig, slot, lambda: peer.sendto(b"to another port", pod.ipv4, 7130))

    def test_an_echo_reply_needs_the_request(self, rig: Rig) -> None:
        pod = rig.node.add_pod()
        slot, ruleset = rig.manage(pod, ingress=Verdict.ALLOW, flags=FLAG_RAW_SOCKETS)
        rig.node.add_addresses(V4)
        assert pod.run(s.send_icmp, V4, 0, 77) == "EPERM"
        assert rig.denials(slot) == {DropReason.NOT_A_REPLY: 1}
        pod.spawn(_hold_raw_icmp)
        time.sleep(0.2)
        with in_netns(rig.node.world), socket.socket(socket.AF_INET, socket.SOCK_RAW, ICMP) as ping:
            ping.bind((V4, 0))
            ping.sendto(s.echo_message(8, 78), (pod.ipv4, 0))
        assert eventually(lambda: pod.run(s.send_icmp, V4, 0, 78) == "ok")
        assert pod.run(s.send_icmp, V4, 0, 79) == "EPERM"
        assert pod.run(s.send_icmp, V4, 8, 78) == "EPERM"
        rig.rule(ruleset, V4, ICMP, 0)
        assert pod.run(s.send_icmp, V4, 8, 78) == "ok"


def test_raw_sockets_need_leave(rig: Rig) -> None:
    pod, granted, pending = (rig.node.add_pod() for _ in range(3))
    slot, _ = rig.manage(pod)
    rig.manage(granted, flags=FLAG_RAW_SOCKETS)
    for family, protocol in ((socket.AF_INET, ICMP), (socket.AF_INET6, 58), (socket.AF_INET, 255)):
        assert pod.run(s.raw_socket, family, protocol) == "EPERM"
        assert pending.run(s.raw_socket, family, protocol) == "EPERM"
        assert granted.run(s.raw_socket, family, protocol) == "ok"
    assert rig.denials(slot) == {DropReason.RAW_SOCKET: 3}
    assert rig.event(EventKind.DENIED, slot=slot)["hook"] == Hook.SOCK_CREATE


def test_audit_refuses_no_socket(rig: Rig) -> None:
    """P3: what would be refused is reported."""
    pod = rig.node.add_pod()
    slot, _ = rig.manage(pod, egress=Verdict.AUDIT, flags=FLAG_AUDIT_SOCKETS)
    assert pod.run(s.raw_socket) == "ok"
    assert pod.run(s.a_socket, socket.AF_PACKET) == "ok"
    audited = {e["hook"]: e for e in rig.events() if (e["kind"], e["slot"]) == (EventKind.AUDITED, slot)}
    assert audited[Hook.SOCK_CREATE]["reason"] == DropReason.RAW_SOCKET
    if rig.datapath.features.lsm_cgroup:
        assert audited[Hook.SOCKET_CREATE]["family"] == socket.AF_PACKET


AF_XDP = 44


def test_sockets_that_no_hook_judges_are_refused(rig: Rig) -> None:
    """S6: where the kernel has lsm_cgroup; elsewhere `dagwall status` says that they are not covered."""
    managed, granted, unmanaged = (rig.node.add_pod() for _ in range(3))
    slot, _ = rig.manage(managed)
    rig.manage(granted, flags=FLAG_RAW_SOCKETS)
    rig.manage(unmanaged, state=EndpointState.UNMANAGED)
    families = (socket.AF_PACKET, socket.AF_VSOCK, AF_XDP)
    outcomes = [unmanaged.run(s.a_socket, family) for family in families]
    assert outcomes[0] == "ok"
    if rig.datapath.features.lsm_cgroup:
        outcomes = ["EPERM"] * len(families)
    assert [managed.run(s.a_socket, family) for family in families] == outcomes
    assert [granted.run(s.a_socket, family) for family in families] == outcomes
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_NETLINK):
        assert managed.run(s.a_socket, family) == "ok"
    if rig.datapath.features.lsm_cgroup:
        assert rig.denials(slot) == {DropReason.SOCKET_FAMILY: len(families)}
        event = rig.event(EventKind.DENIED, slot=slot, hook=Hook.SOCKET_CREATE)
        assert event["family"] == socket.AF_PACKET
        assert rig.node.add_pod().run(s.a_socket, socket.AF_PACKET) == "EPERM"  # nobody knows it yet


def test_lsm_cgroup_is_found_where_the_kernel_has_it(rig: Rig, tmp_path: Path) -> None:
    """By what the kernel says of itself: its release, its active LSMs, and that root may load such programs."""
    subprocess.run(["mount", "-t", "securityfs", "none", str(tmp_path)], check=False)
    try:
        active = tmp_path / "lsm"
        modules = active.read_text().split(",") if active.exists() else []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=False)
    there = "bpf" in modules and version_of(platform.release()) >= (6, 0) and not _forbidden_to_root()
    assert rig.datapath.features.lsm_cgroup == there, modules
    if there:
        with pytest.raises(OSError, match="R0 !read_ok"):
            lsm.load("dagwall_test", EXIT)


def test_source_routes_are_dropped(rig: Rig) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod, flags=FLAG_RAW_SOCKETS)
    for address in (V4, V6):
        rig.node.serve(address, 7141, socket.SOCK_DGRAM)
        rig.rule(ruleset, address, UDP, 7141)
    loose_route = bytes([131, 7, 4]) + socket.inet_aton("198.51.100.9") + b"\0"
    assert pod.run(s.with_option, V4, 7141, socket.IPPROTO_IP, socket.IP_OPTIONS, loose_route) == "EPERM"
    record_route = bytes([7, 7, 4, 0, 0, 0, 0, 0])
    assert pod.run(s.with_option, V4, 7141, socket.IPPROTO_IP, socket.IP_OPTIONS, record_route) == "ok"
    routing = struct.pack(">BBBBI", UDP, 2, 0, 1, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8::99")
    packet = s.ipv6_packet(pod.ipv6, V6, 43, routing + s.udp_segment(1, 7141))
    assert pod.run(s.send_ipv6, packet, V6) == "EPERM"
    assert rig.denials(slot) == {DropReason.SOURCE_ROUTE: 2}


def test_ipv4_options_are_looked_through(rig: Rig) -> None:
    pod = rig.node.add_pod()
    rig.manage(pod)
    rig.node.serve(V4, 7142, socket.SOCK_DGRAM)
    record_route = bytes([7, 7, 4, 0, 0, 0, 0, 0])
    assert pod.run(s.with_option, V4, 7142, socket.IPPROTO_IP, socket.IP_OPTIONS, record_route) == "EPERM"


def test_ipv6_extension_headers_are_looked_through(rig: Rig) -> None:
    pod = rig.node.add_pod()
    _, ruleset = rig.manage(pod)
    rig.node.serve(V6, 7143, socket.SOCK_DGRAM)
    destination_options = bytes([0, 0, 1, 4, 0, 0, 0, 0])
    way = (s.with_option, V6, 7143, socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, destination_options)
    assert pod.run(*way) == "EPERM"
    rig.rule(ruleset, V6, UDP, 7143)
    assert pod.run(*way) == "ok"


def test_fragments_are_dropped(rig: Rig) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod, flags=FLAG_RAW_SOCKETS)
    server = rig.node.serve(V4, 7144, socket.SOCK_DGRAM)
    rig.node.add_addresses(V6)
    rig.rule(ruleset, V4, UDP, 7144)
    rig.rule(ruleset, V6, UDP, 7144)
    segment = s.udp_segment(1, 7144)
    for fragment in (0x2000, 0x0001):
        assert pod.run(s.send_ipv4, s.ipv4_packet(pod.ipv4, V4, UDP, segment, fragment), V4) == "EPERM"
    fragment_header = struct.pack(">BBHI", UDP, 0, 1, 7)
    assert pod.run(s.send_ipv6, s.ipv6_packet(pod.ipv6, V6, 44, fragment_header + segment), V6) == "EPERM"
    assert rig.denials(slot) == {DropReason.FRAGMENT: 3}
    assert server.received == []
    assert pod.run(s.send_ipv4, s.ipv4_packet(pod.ipv4, V4, UDP, segment), V4) == "ok"
    assert eventually(lambda: bool(server.received))


def test_other_protocols_need_a_rule_that_names_them(rig: Rig) -> None:
    pod = rig.node.add_pod()
    _, ruleset = rig.manage(pod, flags=FLAG_RAW_SOCKETS)
    rig.node.add_addresses(V4)
    rig.rule(ruleset, V4, TCP, 0)  # TCP, UDP, ICMP and ICMPv6 on every port (P4)
    chunk = struct.pack(">HHII", 1, 7145, 0, 0)
    assert pod.run(s.send_ipv4, s.ipv4_packet(pod.ipv4, V4, SCTP, chunk), V4) == "EPERM"
    assert pod.run(s.send_ipv4, s.ipv4_packet(pod.ipv4, V4, 47, b"\0" * 8), V4) == "EPERM"
    rig.rule(ruleset, V4, SCTP, 7145)
    assert pod.run(s.send_ipv4, s.ipv4_packet(pod.ipv4, V4, SCTP, chunk), V4) == "ok"
    assert pod.run(s.send_ipv4, s.ipv4_packet(pod.ipv4, V4, 47, b"\0" * 8), V4) == "EPERM"


def test_another_endpoints_flow_is_no_leave(rig: Rig) -> None:
    """Both send from the same namespace and address, to the same peer and port."""
    pod = rig.node.add_pod()
    other = replace(rig.node.add_pod(), netns=pod.netns)
    slot, ruleset = rig.manage(pod)
    rig.manage(other)
    rig.node.serve(V4, 7146, socket.SOCK_DGRAM)
    rig.rule(ruleset, V4, UDP, 7146)
    assert pod.run(s.udp, V4, 7146, 1.0, 7147) == "ok"
    assert rig.flows(slot)
    assert other.run(s.udp, V4, 7146, 1.0, 7147) == "EPERM"


class TestForeignSockets:
    """L7: a socket is judged by where it was made, and the report names both."""

    @pytest.mark.parametrize("maker_may", [True, False])
    def test_a_socket_passed_over_a_unix_socket(self, rig: Rig, maker_may: bool, tmp_path: Path) -> None:
        maker, user = rig.node.add_pod(), rig.node.add_pod()
        slot, maker_rules = rig.manage(maker)
        _, user_rules = rig.manage(user)
        port = 7150 + maker_may
        server = rig.node.serve(V4, port)
        rig.rule(maker_rules if maker_may else user_rules, V4, TCP, port)
        meeting = str(tmp_path / "meet")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(meeting)
        listener.listen(1)
        maker.spawn(_give_socket, meeting)
        connection, _ = listener.accept()
        outcome = user.run(_take_and_connect, connection, V4, port)
        rig_event = EventKind.FOREIGN_SOCKET if maker_may else EventKind.DENIED
        event = rig.event(rig_event, slot=slot)
        assert event["task_cgroup_id"] == user.container.stat().st_ino
        assert event["cgroup_id"] == maker.container.stat().st_ino
        assert outcome == "ok" if maker_may else outcome in REFUSED
        assert bool(server.received) == maker_may

    @pytest.mark.parametrize("first_may", [True, False])
    def test_a_process_that_moves(self, rig: Rig, first_may: bool) -> None:
        first, second = rig.node.add_pod(), rig.node.add_pod()
        slot, first_rules = rig.manage(first)
        _, second_rules = rig.manage(second)
        port = 7152 + first_may
        server = rig.node.serve(V4, port)
        rig.rule(first_rules if first_may else second_rules, V4, TCP, port)
        outcome = first.run(_move_and_connect, second.container, V4, port)
        event = rig.event(EventKind.FOREIGN_SOCKET if first_may else EventKind.DENIED, slot=slot)
        assert event["task_cgroup_id"] == second.container.stat().st_ino
        assert outcome == "ok" if first_may else outcome in REFUSED
        assert bool(server.received) == first_may

    def test_a_datagram_socket_that_moves(self, rig: Rig) -> None:
        first, second = rig.node.add_pod(), rig.node.add_pod()
        rig.manage(first)
        _, second_rules = rig.manage(second)
        rig.node.serve(V4, 7154, socket.SOCK_DGRAM)
        rig.rule(second_rules, V4, UDP, 7154)
        assert first.run(_move_and_send, second.container, V4, 7154) == "EPERM"
        assert second.run(_move_and_send, first.container, V4, 7154) == "ok"


def test_tcp_mid_stream_without_a_flow_is_judged_in_either_direction(rig: Rig) -> None:
    pod = rig.node.add_pod()
    slot, ruleset = rig.manage(pod)
    rig.node.serve(V4, 7160)
    rig.rule(ruleset, V4, TCP, 7160)
    assert pod.run(_pause_in_a_connection, rig, slot, V4, 7160) == "ok"


def _forbidden_to_root() -> bool:
    """Some hosts of virtual machines forbid LSM programs altogether."""
    try:
        os.close(lsm.load("dagwall_test", set_register(0, 1) + EXIT))
    except OSError as exc:
        return exc.errno == errno.EPERM
    return False


def _connected_then_elsewhere(address: str, port: int, other: int) -> tuple[str, str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        return s.attempt(sock.send, b"x"), s.attempt(sock.sendto, b"x", (address, other))


def _answer_and_more(port: int, address: str, other: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        _, asker = sock.recvfrom(100)
        sock.sendto(b"answer", asker)
        s.attempt(sock.sendto, b"and more", (address, other))


def _answer_late(port: int, seconds: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        _, asker = sock.recvfrom(100)
        time.sleep(seconds)
        s.attempt(sock.sendto, b"late", asker)


def refused(rig: Rig, slot: int, send: Callable[[], object]) -> bool:
    """Is what is sent denied for want of a rule? No hook sees a datagram before its receiver listens: sent again."""

    def tried() -> bool:
        send()
        return rig.denials(slot).get(DropReason.NO_RULE, 0) >= 1

    return eventually(tried)


def _listen_udp(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        sock.recvfrom(100)


def _hold_raw_icmp() -> None:
    """A raw socket through which the kernel shows incoming ICMP to the ingress hook."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, ICMP) as sock:
        while True:
            sock.recv(100)


def _give_socket(meeting: str) -> None:
    with socket.socket(socket.AF_UNIX) as to, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        to.connect(meeting)
        fds = array.array("i", [sock.fileno()])
        to.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        time.sleep(10)


def _take_and_connect(connection: socket.socket, address: str, port: int) -> str:
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
    with socket.socket(fileno=struct.unpack("=i", ancillary[0][2][:4])[0]) as sock:
        return _connect_and_ask(sock, address, port)


def _move_and_connect(folder: Path, address: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        join_cgroup(folder)
        return _connect_and_ask(sock, address, port)


def _connect_and_ask(sock: socket.socket, address: str, port: int) -> str:
    sock.settimeout(3)
    try:
        sock.connect((address, port))
        sock.sendall(b"ping")
        return "ok" if sock.recv(16) else "closed"
    except OSError as exc:
        return s.name_of(exc)


def _move_and_send(folder: Path, address: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        join_cgroup(folder)
        return s.attempt(sock.sendto, b"x", (address, port))


def _pause_in_a_connection(rig: Rig, slot: int, address: str, port: int) -> str:
    with socket.create_connection((address, port), 3) as sock:
        sock.sendall(b"one")
        sock.recv(16)
        os.sched_yield()
        for key in rig.maps["flows"].keys():  # noqa: SIM118  as if the agent had evicted it
            rig.maps["flows"].delete(key)
        for _ in range(30):  # a promoted socket makes its flow again at its next flush, a second later
            sock.sendall(b"two")
            if sock.recv(16) == b"two" and rig.flows(slot):
                return "ok"
            time.sleep(0.1)
        return "lost"
