"""Rules with `tls`: a connection begins with a hello for a server that a rule names, or nothing of it leaves."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent.app.agent import Agent
from agent.kernel.datapath import detach
from agent.model.verdict import DropReason, Verdict
from lab.node import Pod, ScratchNode, in_netns
from tests.certificates import Authority
from tests.kernel.hellos import (
    ECH,
    MPTCP,
    MSG_EOR,
    answer,
    extension,
    greets_itself,
    hello,
    keeps_talking,
    message,
    named,
    openssl,
    records,
    talks,
    talks_again,
    talks_by_mptcp,
    talks_by_sendfile,
    talks_early,
    talks_in_the_syn,
    talks_split_everywhere,
)
from tests.kernel.resolver import Resolver, look_up
from tests.kernel.rig import eventually
from tests.kernel.sockets import name_of, udp
from tests.kernel.test_agent import SETTINGS, Machine, pod_manifest

DNS, HTTPS = "192.0.2.53", "198.51.100.40"
SITE, SITE6, OTHER, PLAIN, PORT = "198.51.100.10", "2001:db8:1::10", "198.51.100.20", "198.51.100.30", 443
GOOD, BAD = "api.example.org", "www.evil.net"
HTTP = b"GET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n"
DENIED = "ECONNABORTED"


def policy(dag: str, *rules: str, posture: str = "enforce") -> str:
    listed = "\n".join(f"  - {rule}" for rule in rules)
    return f"""
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: {dag}, namespace: airflow}}
spec:
  posture: {posture}
  subject: {{dagIds: ["{dag}"]}}
  egress:
{listed}
"""


def rule(tls: str, *addresses: str, name: str = "tls", port: int = PORT) -> str:
    peers = ", ".join(f"{{cidr: {each}/{128 if ':' in each else 32}}}" for each in addresses)
    return f"{{name: {name}, to: [{peers}], ports: [{{port: {port}}}], {tls}}}"


NAMED = f"tls: {{serverNames: [{GOOD}, '*.example.com']}}"
ANY = "tls: {required: true}"


class World(Machine):
    def __init__(self, node: ScratchNode, folder: Path) -> None:
        super().__init__(node, folder)
        self.servers = {address: node.serve(address, PORT) for address in (SITE, SITE6, OTHER, PLAIN)}
        self.dns = Resolver(node, DNS)
        self.dns.zone |= {GOOD: [SITE], "other.example.org": [SITE], BAD: [SITE], "plain.example.org": [PLAIN]}
        self.pods = 0


class Task:
    """A pod of a DAG of its own, and its policy."""

    def __init__(self, world: World, agent: Agent) -> None:
        world.pods += 1
        self.world, self.agent, self.dag = world, agent, f"tls{world.pods}"
        self.pod: Pod = world.node.add_pod()
        world.write(f"{self.dag}.yaml", pod_manifest(self.dag, self.pod.uid, self.pod.ipv4, self.dag))
        writer = agent.node.writer
        assert eventually(lambda: self.pod.uid in writer.want.assignments and not writer.pending(), 20)

    def rules(self, *rules: str, posture: str = "enforce") -> None:
        before = self.agent.node.writer.cluster.revision
        self.world.write(f"{self.dag}-policy.yaml", policy(self.dag, *rules, posture=posture))
        assert eventually(lambda: self.agent.node.writer.cluster.revision > before, 20)
        time.sleep(0.3)

    def talks(self, *pieces: bytes, address: str = SITE, **how: float) -> str:
        return self.pod.run(partial(talks, address, PORT, *pieces, **how), timeout=40)  # type: ignore[arg-type]

    def arrived(self, address: str = SITE) -> bytes:
        """All that has come to a server from this pod."""
        own = (self.pod.ipv4, self.pod.ipv6)
        return b"".join(data for data, peer in self.world.servers[address].received if peer in own)

    def denials(self) -> list[DropReason]:
        """Reasons that were reported, and forgotten here."""
        time.sleep(0.5)
        seen = self.world.outputs.seen_denials
        found = [each for each in seen if each.endpoint.uid == self.pod.uid and each.verdict is Verdict.DENY]
        seen[:] = [each for each in seen if each.endpoint.uid != self.pod.uid]
        return list(dict.fromkeys(each.reason for each in found))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Agent]]:
    with world_with_agent(tmp_path_factory.mktemp("tls")) as found:
        yield found


@contextlib.contextmanager
def world_with_agent(folder: Path) -> Iterator[tuple[World, Agent]]:
    with ScratchNode() as node:
        world = World(node, folder)
        try:
            with world.agent(replace(SETTINGS, dns=(ip_address(DNS),))) as agent:
                yield world, agent
        finally:
            world.dns.close()
            detach(node.bpffs / "dagwall")


@pytest.fixture
def task(shared: tuple[World, Agent]) -> Task:
    return Task(*shared)


def test_the_hello_of_openssl_passes_for_a_server_that_the_rule_names(task: Task) -> None:
    task.rules(rule(NAMED, SITE, SITE6))
    for name in (GOOD, "a.example.com", "A.B.Example.COM"):
        assert task.talks(openssl(name)) == "ok", name
    assert task.talks(openssl(GOOD), address=SITE6) == "ok"
    arrived = len(task.arrived())
    for name in (BAD, "example.com", "api.example.org.evil.net", "xapi.example.org"):
        assert task.talks(openssl(name)) == DENIED, name
        assert task.denials() == [DropReason.SERVER_NAME]
    assert task.talks(openssl(BAD), address=SITE6) == DENIED
    assert len(task.arrived()) == arrived, "no byte of it has left"


@pytest.fixture(scope="module")
def site(shared: tuple[World, Agent], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An HTTPS server in the world, at HTTPS; the file of its authority."""
    world, folder = shared[0], tmp_path_factory.mktemp("https")
    authority = Authority()
    (folder / "ca.crt").write_bytes(authority.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.files(folder, GOOD, BAD))
    world.node.add_addresses(HTTPS)
    with in_netns(world.node.world):
        server = Secured((HTTPS, PORT), Counting)
    server.context = context
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder / "ca.crt"
    server.shutdown()
    server.server_close()


class Secured(ThreadingHTTPServer):
    """Each handshake in its connection's thread."""

    daemon_threads = True
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError):
            super().finish_request(self.context.wrap_socket(request, server_side=True), client_address)


class Counting(BaseHTTPRequestHandler):
    """Answers with how many bytes came."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_real_clients_upload_by_the_name_that_the_rule_has(task: Task, site: Path) -> None:
    task.rules(rule(NAMED, HTTPS))
    for client in (curl, python):
        assert task.pod.run(client, GOOD, site) == "400000", client.__name__
        assert task.pod.run(client, BAD, site) != "400000", client.__name__
    assert task.denials() == [DropReason.SERVER_NAME]


def curl(name: str, authority: Path) -> str:
    command = ["curl", "-sS", "-m", "8", "--cacert", authority, "--resolve", f"{name}:{PORT}:{HTTPS}"]
    done = subprocess.run(
        [*command, "--data-binary", "@-", f"https://{name}/"], input=b"x" * 400_000, capture_output=True, check=False
    )
    return done.stdout.decode() or done.stderr.decode()


def python(name: str, authority: Path) -> str:
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with socket.create_connection((HTTPS, PORT), timeout=8) as sock:
            connection = http.client.HTTPConnection(name)
            connection.sock = context.wrap_socket(sock, server_hostname=name)
            connection.request("POST", "/", body=b"x" * 400_000)
            return connection.getresponse().read().decode()
    except OSError as exc:
        return name_of(exc)


def test_what_is_no_hello_never_leaves(task: Task) -> None:
    task.rules(rule(ANY, SITE), rule("", PLAIN, name="plain"))
    assert task.talks(HTTP, address=PLAIN) == "ok", "the rule without tls"
    assert task.talks(HTTP) == DENIED
    assert task.denials() == [DropReason.NO_TLS]
    assert task.talks(b"\x16" + HTTP) == DENIED
    assert task.denials() == [DropReason.NO_TLS]
    assert task.talks(b"\x16", HTTP, gap=0.05) == DENIED
    assert task.arrived() == b""
    assert task.talks(openssl(BAD)) == "ok", "the rule names no server"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: openssl(None), DropReason.NO_SERVER_NAME),
        (lambda: hello(GOOD.encode(), 0, extension(ECH, bytes(100))), DropReason.ENCRYPTED_HELLO),
        (lambda: hello("äpi.example.org".encode()), DropReason.NO_SERVER_NAME),
        (lambda: hello(GOOD.encode() + b"\0"), DropReason.NO_SERVER_NAME),
        (lambda: hello(GOOD.encode() + b"."), DropReason.NO_SERVER_NAME),
        (lambda: hello(b".." + GOOD.encode()), DropReason.NO_SERVER_NAME),
        (lambda: hello(b""), DropReason.NO_SERVER_NAME),
        (lambda: hello(b"a" * 251), DropReason.NO_SERVER_NAME),
        (lambda: records(message([named(GOOD.encode()), named(BAD.encode())])), DropReason.BROKEN_HELLO),
        (lambda: records(message([named(GOOD.encode(), BAD.encode())])), DropReason.BROKEN_HELLO),
        (lambda: records(message([named(GOOD.encode(), kind=1)])), DropReason.BROKEN_HELLO),
        (lambda: records(message([named(GOOD.encode())], more=-1)), DropReason.BROKEN_HELLO),
        (lambda: records(message([named(GOOD.encode()), *[extension(9, b"")] * 200])), DropReason.BROKEN_HELLO),
        (lambda: records(message([named(GOOD.encode())]), *[1] * 20), DropReason.BROKEN_HELLO),
        (lambda: records(message([named(GOOD.encode())], kind=2)), DropReason.NO_TLS),
        (lambda: records(message([named(GOOD.encode())]), kind=23), DropReason.NO_TLS),
        (lambda: records(message([named(GOOD.encode())]), version=0x0201), DropReason.NO_TLS),
        (lambda: b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + os.urandom(40), DropReason.NO_TLS),
    ],
)
def test_a_hello_that_cannot_be_judged_is_denied_by_its_reason(
    task: Task, made: Callable[[], bytes], reason: DropReason
) -> None:
    task.rules(rule(NAMED, SITE))
    assert task.talks(made()) == DENIED
    assert task.denials() == [reason]
    assert task.arrived() == b""
    assert task.talks(hello(GOOD.encode())) == "ok"


def test_hellos_of_every_size_and_shape_pass(task: Task) -> None:
    task.rules(rule(NAMED, SITE))
    good = GOOD.encode()
    for size in (0, 100, 1216, 1500, 2300, 6000):
        assert task.talks(hello(good, size)) == "ok", size
    whole = message([extension(51, os.urandom(900)), named(good)])
    for sizes in ((512,), (512, 512), (1, 1, 1, 1, 1, 200), (len(whole) - 5,), (len(whole) - 12, 3), (4,), (980, 1)):
        assert task.talks(records(whole, *sizes)) == "ok", sizes
        assert task.talks(records(whole.replace(good, b"www.evil.nets!!"), *sizes)) == DENIED, sizes
    assert task.talks(hello(good, 0, *[extension(kind, b"x") for kind in range(1000, 1060)])) == "ok"
    assert task.talks(records(message([named(good)])) + records(b"\0" * 50, kind=23)) == "ok", "early data"
    assert task.talks(hello(b"a" * 63 + b".example.com")) == "ok"


def test_a_hello_in_two_writes_passes_wherever_it_is_cut(task: Task) -> None:
    task.rules(rule(NAMED, SITE))
    whole = openssl(GOOD)
    assert task.pod.run(talks_split_everywhere, SITE, PORT, whole, 3, timeout=120) == []
    wrong = openssl(BAD)
    arrived = len(task.arrived())
    for cut in (1, 5, 6, 43, 100, 150, len(wrong) - 1):
        assert task.talks(wrong[:cut], wrong[cut:]) == DENIED, cut
    assert len(task.arrived()) == arrived


def test_pieces_that_tcp_joins_pass_and_those_that_it_keeps_apart_are_denied(task: Task) -> None:
    task.rules(rule(NAMED, SITE))
    whole = hello(GOOD.encode(), 900)
    pieces = [whole[at : at + 100] for at in range(0, len(whole), 100)]
    assert task.talks(*pieces) == "ok"
    assert task.talks(*pieces, gap=0.02) == "ok"
    assert task.talks(whole[:700], whole[700:], gap=0.6) == "ok"
    long, joins = hello(GOOD.encode(), 1600), joins_what_it_has_split()
    for cut in (1000, 1600, len(long) - 1):
        expected = "ok" if joins or cut < 1448 else DENIED
        assert task.talks(long[:cut], long[cut:], gap=0.6) == expected, cut
    task.denials()
    assert task.talks(whole[:700], whole[700:], flags=0x8000) == "ok", "MSG_MORE"
    assert task.pod.run(talks_by_sendfile, SITE, PORT, whole, 300) == "ok"
    arrived = len(task.arrived())
    assert task.talks(*pieces, flags=MSG_EOR) == DENIED, "at once, not a stall"
    assert task.denials() == [DropReason.HELLO_TOO_LONG]
    assert task.talks(hello(GOOD.encode(), 14000)) == DENIED
    assert task.denials() == [DropReason.HELLO_TOO_LONG]
    claims = records(b"\x01\xff\xff\xff" + bytes(1000))
    assert task.talks(claims) == DENIED, "it says that it is longer than any"
    assert task.denials() == [DropReason.HELLO_TOO_LONG]
    assert task.talks(whole, mss=88) == DENIED
    assert task.denials() == [DropReason.HELLO_TOO_LONG]
    assert len(task.arrived()) == arrived


def joins_what_it_has_split() -> bool:
    """While a hello is awaited, TCP cuts what it has at a segment's end; Linux 6.10 and newer join it again."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (6, 10)


@pytest.mark.parametrize("way", [talks_early, talks_in_the_syn])
def test_no_early_write_gets_around_it(task: Task, way: Callable[[str, int, bytes], str]) -> None:
    with in_netns(task.pod.netns):
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543", encoding="ascii")
    with in_netns(task.world.node.world):
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543", encoding="ascii")
    task.rules(rule(NAMED, SITE))
    assert task.pod.run(way, SITE, PORT, openssl(GOOD)) == "ok"
    arrived = len(task.arrived())
    for wrong in (HTTP, openssl(BAD)):
        assert task.pod.run(way, SITE, PORT, wrong) == DENIED
    assert len(task.arrived()) == arrived


def test_an_urgent_byte_in_a_hello_is_denied(task: Task) -> None:
    """The server reads the stream without it: another hello than the one that was judged."""
    task.rules(rule(NAMED, SITE))
    whole = openssl(GOOD)
    for cut in (1, 60, len(whole) - 1):
        assert task.talks(whole[:cut], flags=socket.MSG_OOB) == DENIED
    assert task.pod.run(talks_urgently, SITE, PORT, whole, 60) == DENIED
    assert DropReason.BROKEN_HELLO in task.denials()
    assert task.arrived() == b""


def talks_urgently(address: str, port: int, whole: bytes, at: int) -> str:
    with socket.create_connection((address, port), timeout=5) as sock:
        try:
            sock.send(whole[:at])
            sock.send(whole[at : at + 1], socket.MSG_OOB)
            sock.send(whole[at + 1 :])
        except OSError as exc:
            return name_of(exc)
        return answer(sock, len(whole))


def test_mptcp_is_refused_where_a_rule_asks_for_tls(task: Task) -> None:
    task.rules(rule("", PLAIN, name="plain"))
    before = task.pod.run(talks_by_mptcp, PLAIN, PORT, b"ping")
    if before == "EPROTONOSUPPORT":
        pytest.skip("this kernel has no MPTCP")
    assert before == "ok"
    task.rules(rule("", PLAIN, name="plain"), rule(NAMED, SITE))
    assert task.pod.run(talks_by_mptcp, SITE, PORT, HTTP) in ("EPROTONOSUPPORT", "EPERM")
    assert task.pod.run(talks_by_mptcp, PLAIN, PORT, b"ping") in ("EPROTONOSUPPORT", "EPERM")
    assert task.arrived() == b""


def test_a_socket_that_connects_again_begins_anew(task: Task) -> None:
    task.rules(rule(NAMED, SITE), rule("tls: {serverNames: [db.internal]}", OTHER, name="other"))
    assert task.pod.run(talks_again, SITE, PORT, openssl(GOOD), (OTHER, PORT), openssl("db.internal")) == ["ok", "ok"]
    for wrong in (HTTP, openssl(GOOD)):
        assert task.pod.run(talks_again, SITE, PORT, openssl(GOOD), (OTHER, PORT), wrong) == ["ok", DENIED]


@pytest.mark.parametrize("address", [SITE, SITE6])
def test_a_socket_whose_flow_was_copied_into_it_begins_anew(task: Task, address: str) -> None:
    """Of 256 packets one copies the flow into the socket, which then passes without a look at anything else."""
    task.rules(rule(NAMED, SITE, SITE6))
    for second, ends in ((HTTP, DENIED), (openssl(BAD), DENIED), (openssl(GOOD), "ok")):
        again = partial(talks_again, address, PORT, openssl(GOOD), (address, PORT), second, writes=600)
        assert task.pod.run(again, timeout=60) == ["ok", ends]
    assert HTTP not in task.arrived(address)


def test_mptcp_that_is_older_than_the_rule_begins_anew(task: Task) -> None:
    task.rules(rule("", PLAIN, name="plain"))
    if task.pod.run(talks_by_mptcp, PLAIN, PORT, b"ping") == "EPROTONOSUPPORT":
        pytest.skip("this kernel has no MPTCP")
    again = partial(
        talks_again, SITE, PORT, openssl(GOOD), (SITE, PORT), HTTP, writes=600, protocol=MPTCP, wait=3.0
    )  # fmt: skip
    said: list[list[str]] = []
    running = threading.Thread(target=lambda: said.append(task.pod.run(again, timeout=60)))
    running.start()
    time.sleep(1.0)
    task.rules(rule("", PLAIN, name="plain"), rule(NAMED, SITE))
    running.join()
    assert said == [["ok", DENIED]]
    assert HTTP not in task.arrived()


def test_a_socket_that_connects_to_this_host_begins_anew(task: Task) -> None:
    """0.0.0.0 is the host's own network for a pod there."""
    world, dag = task.world, f"{task.dag}host"
    pod = world.node.add_pod()
    on_host = pod_manifest(dag, pod.uid, pod.ipv4, dag).replace("spec: {", "spec: {hostNetwork: true, ")
    world.write(f"{dag}.yaml", on_host)
    egress = f"{{name: here, to: [{{entity: node}}], ports: [{{port: 9443}}], {ANY}}}"
    ingress = "  ingress: [{name: all, from: [{cidr: 0.0.0.0/0}, {entity: node}]}]"
    world.write(f"{dag}-policy.yaml", policy(dag, egress) + ingress + "\n")
    writer = task.agent.node.writer
    assert eventually(lambda: pod.uid in writer.want.assignments and not writer.pending(), 20)
    time.sleep(0.5)
    said, arrived = pod.run(partial(greets_itself, 9443, openssl(GOOD), HTTP), timeout=60)
    assert said == [DENIED, "ok", DENIED]
    assert HTTP not in b"".join(arrived)


@pytest.mark.parametrize("begins", [b"\x16", openssl(GOOD)[:11]])
def test_half_a_hello_is_none(task: Task, begins: bytes) -> None:
    """Let pass by a name whose rule asks for none; when that rule goes, the rule that is left asks for one."""
    lookups, plain = "{name: dns, to: [{entity: dns}]}", "other.example.org"
    unnamed = rule(f"tls: {{serverNames: [{GOOD}], allowNoServerName: true}}", SITE)
    named = f"{{name: named, to: [{{fqdn: {plain}}}], ports: [{{port: {PORT}}}]}}"
    task.rules(lookups, unnamed, named)
    said = running(task.pod, looks_up_and_talks, SITE, PORT, plain, [begins, b"GET / HTTP/1.1\r\n", HTTP], 2.5)
    time.sleep(1.5)
    task.rules(lookups, unnamed)
    assert said() in ("ended", DENIED)
    assert HTTP not in task.arrived()


def looks_up_and_talks(address: str, port: int, name: str, pieces: list[bytes], seconds: float) -> str:
    """Asks for a name of the peer's after connect(); the last piece is sent so much later."""
    with socket.create_connection((address, port), timeout=5) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        look_up(DNS, name)
        try:
            for piece in pieces[:-1]:
                sock.sendall(piece)
                assert answer(sock, len(piece)) == "ok"
            time.sleep(seconds)
            sock.sendall(pieces[-1])
        except OSError as exc:
            return name_of(exc)
        return answer(sock, len(pieces[-1]))


def test_any_of_several_rules_may_match(task: Task) -> None:
    task.rules(
        rule(NAMED, SITE), rule("tls: {serverNames: [db.internal]}", SITE, name="second"),
        rule("tls: {serverNames: [only.other]}", OTHER, name="other"),
    )  # fmt: skip
    assert [task.talks(openssl(name)) for name in (GOOD, "db.internal", "only.other")] == ["ok", "ok", DENIED]
    assert task.talks(openssl("only.other"), address=OTHER) == "ok"
    task.rules(rule(NAMED, SITE), rule("", SITE, name="plain"))
    assert task.talks(HTTP) == "ok", "a rule without tls allows it, whatever it begins with"


def test_a_rule_may_say_otherwise(task: Task) -> None:
    task.rules(rule(f"tls: {{serverNames: [{GOOD}], allowNoServerName: true}}", SITE))
    encrypted = hello(GOOD.encode(), 0, extension(ECH, bytes(100)))
    assert [task.talks(each) for each in (openssl(None), openssl(BAD), encrypted)] == ["ok", DENIED, DENIED]
    task.rules(rule(f"tls: {{serverNames: [{GOOD}], allowEncryptedHello: true}}", SITE))
    outer = hello(BAD.encode(), 0, extension(ECH, bytes(100)))
    assert [task.talks(each) for each in (openssl(None), encrypted, outer)] == [DENIED, "ok", DENIED]


def test_over_a_shared_address_only_the_names_of_its_rules_are_reached(task: Task) -> None:
    """Three names have one address, as at a CDN; each rule says which of them it means."""

    def by_name(name: str, tls: str = f", {ANY}") -> str:
        return f"{{name: n{name.replace('.', '-')}, to: [{{fqdn: {name}}}], ports: [{{port: {PORT}}}]{tls}}}"

    lookups, other = "{name: dns, to: [{entity: dns}]}", "other.example.org"

    def talk(*rules: str) -> list[str]:
        task.rules(lookups, *rules)
        for name in (GOOD, other, BAD):
            assert task.pod.run(look_up, DNS, name) == [SITE]
        return [task.talks(openssl(name)) for name in (GOOD, other, BAD, "db.internal")]

    task.rules(lookups, by_name(other))
    assert task.talks(openssl(other)) == "EACCES", "nobody has looked it up"
    assert talk(by_name(GOOD)) == ["ok", DENIED, DENIED, DENIED]
    assert task.denials() == [DropReason.NO_RULE, DropReason.SERVER_NAME]
    assert talk(by_name(GOOD), by_name(other)) == ["ok", "ok", DENIED, DENIED]
    elsewhere = by_name(other, f", tls: {{serverNames: [{BAD}]}}")
    assert talk(by_name(GOOD), elsewhere) == ["ok", DENIED, "ok", DENIED]
    by_address = rule("tls: {serverNames: [db.internal]}", SITE)
    assert talk(by_name(GOOD), by_address) == ["ok", DENIED, DENIED, "ok"]
    assert talk(by_name(GOOD), by_name(other, "")) == ["ok"] * 4, "a rule without tls leads there by another name"


def test_a_rule_with_tls_grants_no_datagrams(task: Task) -> None:
    task.world.node.serve(SITE, 4433, socket.SOCK_DGRAM)
    task.rules(rule(ANY, SITE, port=4433))
    assert task.pod.run(udp, SITE, 4433) == "EPERM"
    task.rules(
        rule(ANY, SITE, port=4433),
        f"{{name: quic, to: [{{cidr: {SITE}/32}}], ports: [{{port: 4433, protocol: UDP}}]}}",
    )
    assert task.pod.run(udp, SITE, 4433) == "ok"


def running(pod: Pod, function: Callable[..., str], *args: object) -> Callable[[], str]:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(pod.run(function, *args, timeout=60)))
    thread.start()

    def result() -> str:
        thread.join(60)
        return found[0]

    return result


@pytest.mark.parametrize("silent", [False, True])
def test_an_edit_ends_what_it_takes_away_and_nothing_else(task: Task, silent: bool) -> None:
    task.rules(rule(f"tls: {{serverNames: [{GOOD}, db.internal]}}", SITE))
    talking = partial(keeps_talking, silent=silent)
    both = [running(task.pod, talking, SITE, PORT, openssl(name), 4.0) for name in (GOOD, "db.internal")]
    time.sleep(1.0)
    task.rules(rule(f"tls: {{serverNames: [{GOOD}, more.example]}}", SITE))
    kept, ended = (each() for each in both)
    assert kept == "open"
    assert ended in ("ended", DENIED)


@pytest.mark.parametrize("silent", [False, True])
def test_a_flow_that_is_older_than_the_rule_is_ended(task: Task, silent: bool) -> None:
    task.rules(rule("", SITE, name="plain"), rule("", PLAIN, name="other"))
    talking = partial(keeps_talking, silent=silent)
    old = running(task.pod, talking, SITE, PORT, b"hello", 4.0)
    other = running(task.pod, talking, PLAIN, PORT, b"hello", 4.0)
    time.sleep(1.0)
    task.rules(rule(ANY, SITE), rule("", PLAIN, name="other"))
    assert old() in ("ended", DENIED)
    assert other() == "open"
    assert task.talks(openssl(GOOD)) == "ok"


def test_a_connection_that_has_sent_nothing_yet_outlives_an_edit(task: Task) -> None:
    task.rules(rule("", SITE, name="plain"))
    waiting = running(task.pod, greets_late, SITE, PORT, openssl(GOOD), 2.0)
    wrong = running(task.pod, greets_late, SITE, PORT, HTTP, 2.0)
    time.sleep(0.7)
    task.rules(rule(NAMED, SITE))
    assert waiting() == "ok"
    assert wrong() == DENIED


def greets_late(address: str, port: int, whole: bytes, seconds: float) -> str:
    with socket.create_connection((address, port), timeout=5) as sock:
        time.sleep(seconds)
        try:
            sock.sendall(whole)
        except OSError as exc:
            return name_of(exc)
        return answer(sock, len(whole))


def observed(task: Task, rule: str) -> Pod:
    """A pod under a policy in audit, in a namespace whose default lets pass what no policy speaks about."""
    task.world.write("observed.yaml", OBSERVED)
    pod = task.world.node.add_pod()
    text = pod_manifest(f"{task.dag}-o", pod.uid, pod.ipv4, task.dag)
    task.world.write(f"{task.dag}-o.yaml", text.replace("namespace: airflow", "namespace: observed"))
    text = policy(task.dag, rule, posture="audit").replace("namespace: airflow", "namespace: observed")
    task.world.write(f"{task.dag}-o-policy.yaml", text)
    writer = task.agent.node.writer
    assert eventually(lambda: pod.uid in writer.want.assignments and not writer.pending(), 20)
    time.sleep(0.5)
    return pod


def test_a_policy_in_audit_reports_and_hinders_nothing(task: Task) -> None:
    pod = observed(task, rule(NAMED, SITE))
    good, wrong = openssl(GOOD), openssl(BAD)
    for pieces in ((good,), (wrong,), (HTTP,), (wrong[:50], wrong[50:])):
        assert pod.run(talks, SITE, PORT, *pieces) == "ok", "it passes"
    time.sleep(0.7)
    audited = [each for each in task.world.outputs.seen_denials if each.endpoint.uid == pod.uid]
    assert {each.verdict for each in audited} == {Verdict.AUDIT}
    assert [each.reason for each in audited] == [DropReason.SERVER_NAME, DropReason.NO_TLS, DropReason.HELLO_TOO_LONG]


OBSERVED = """
apiVersion: v1
kind: Namespace
metadata: {name: observed, labels: {dagwall.io/managed: "true"}, annotations: {dagwall.io/default-posture: observe}}
"""


def test_flows_and_denials_have_the_name_of_the_hello(task: Task) -> None:
    task.rules(rule(NAMED, SITE))
    assert task.talks(openssl(GOOD)) == "ok"
    flows = task.world.outputs.seen_flows
    assert eventually(lambda: any(f.endpoint.uid == task.pod.uid and f.peer.name == GOOD for f in flows), 5)
    assert task.talks(openssl(BAD)) == DENIED
    seen = task.world.outputs.seen_denials
    assert eventually(lambda: any(d.endpoint.uid == task.pod.uid and d.peer.name == BAD for d in seen), 5)
    flows.clear()
    assert task.talks(openssl(GOOD)) == "ok"
    assert task.talks(openssl(BAD)) == DENIED
    time.sleep(1.5)
    assert {f.peer.name for f in flows if f.endpoint.uid == task.pod.uid} == {GOOD}, "what was denied names no flow"
    denial = next(d for d in seen if d.endpoint.uid == task.pod.uid)
    assert str(denial.rule) == f"TaskNetworkPolicy/airflow/{task.dag}/tls"


def test_a_flow_is_promoted_only_after_its_hello(task: Task) -> None:
    """Long uploads, and a first packet after many that came."""
    task.rules(rule(NAMED, SITE))
    assert task.talks(openssl(GOOD), *[b"x" * 1000] * 700) == "ok"
    assert task.talks(HTTP) == DENIED
