"""What a task asked a DNS server for is how its flows and denials are called; what it asked in vain is reported."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from agent.kernel.datapath import detach
from lab.node import ScratchNode, in_netns
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp
from tests.kernel.test_outputs import V4, Running

SERVER, STRANGER, OTHER = "192.0.2.53", "192.0.2.54", "192.0.2.51"
ZONE = {"warehouse.example.": V4, "cdn.example.": V4, "evil.example.": OTHER}


def serve_names(node: ScratchNode, address: str, stop: threading.Event) -> threading.Thread:
    """A DNS server in the world: A records of ZONE, nothing of type AAAA, no other name."""
    node.add_addresses(address)
    with in_netns(node.world):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    sock.settimeout(0.2)

    def run() -> None:
        with sock:
            while not stop.is_set():
                try:
                    data, client = sock.recvfrom(4096)
                except TimeoutError:
                    continue
                sock.sendto(answer(data), client)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def answer(data: bytes) -> bytes:
    question = dns.message.from_wire(data)
    made, name = dns.message.make_response(question), question.question[0].name.to_text().lower()
    if name not in ZONE:
        made.set_rcode(dns.rcode.NXDOMAIN)
    elif question.question[0].rdtype == dns.rdatatype.A:
        made.answer.append(dns.rrset.from_text(name, 30, "IN", "A", ZONE[name]))
    return made.to_wire()


def look_up(name: str, server: str = SERVER) -> str:
    """The rcode, as the pod sees it."""
    return dns.rcode.to_text(dns.query.udp(dns.message.make_query(name, "A"), server, timeout=5).rcode())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    stop = threading.Event()
    folder = tmp_path_factory.mktemp("agent")
    (folder / "config.yaml").write_text(f"dns: [{SERVER}]\n")
    with ScratchNode() as node:
        for address in (V4, OTHER):
            node.serve(address, 8001)
        threads = [serve_names(node, address, stop) for address in (SERVER, STRANGER)]
        agent = Running(node, folder, "--config", str(folder / "config.yaml"), "--baseline", "dns")
        try:
            yield agent
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            agent.process.kill()
            agent.process.wait(30)
            agent.log.close()
            detach(agent.pins)


def test_a_flow_and_a_denial_are_called_by_the_name_that_the_task_asked_for(running: Running) -> None:
    assert running.pod.run(tcp, OTHER, 8001) in ("EACCES", "EPERM")
    assert running.pod.run(look_up, "Warehouse.Example") == "NOERROR"
    assert running.pod.run(look_up, "evil.example") == "NOERROR"
    assert running.pod.run(tcp, V4, 8001) == "ok"
    assert running.pod.run(tcp, OTHER, 8001) in ("EACCES", "EPERM")
    names = lambda: {name for line in running.lines() for name in line.get("destination_names", ())}  # noqa: E731
    assert eventually(lambda: names() >= {"evil.example"}, 10), running.lines()[-3:]
    assert running.value("dagwall_task_connections_total", peer="evil.example") == 0
    assert "evil.example" in running.command("why", "--dag", "finance", code=None)


def test_a_name_that_does_not_exist_is_a_line_and_a_series(running: Running) -> None:
    assert running.pod.run(look_up, "no-such.example") == "NXDOMAIN"
    assert eventually(
        lambda: running.value("dagwall_task_dns_failures_total", rcode="NXDOMAIN", dag_id="finance") == 1
    )
    found = [line["l7"] for line in running.lines() if line["Type"] == "L7"]
    assert [(each["type"], each["dns"]["query"], each["dns"]["rcode"]) for each in found] == [  # type: ignore[index]
        ("RESPONSE", "no-such.example.", 3)
    ]


def test_a_server_that_is_not_of_entity_dns_names_nothing(running: Running) -> None:
    """It could call any address by any name."""
    (running.folder / "manifests" / "more.yaml").write_text(
        f"""
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: stranger, namespace: airflow}}
spec:
  subject: {{}}
  egress:
  - to: [{{cidr: {STRANGER}/32}}]
    ports: [{{port: 53, protocol: UDP}}]
"""
    )
    assert eventually(lambda: running.pod.run(_try, "cdn.example", STRANGER) == "NOERROR")
    assert running.pod.run(tcp, V4, 8001) == "ok"
    assert not any("cdn.example" in str(line) for line in running.lines())


def _try(name: str, server: str) -> str:
    try:
        return look_up(name, server)
    except OSError as exc:
        return str(exc)
