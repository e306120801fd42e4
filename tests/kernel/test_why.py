"""Each failure for real, and what `dagwall why` tells of it: cause, process, rule, both ends, next step."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

from agent.kernel.datapath import detach
from lab.node import Pod, ScratchNode, ip
from tests.kernel import failing
from tests.kernel.resolver import Resolver, look_up
from tests.kernel.rig import eventually
from tests.kernel.sockets import a_socket, raw_socket
from tests.kernel.test_outputs import Running

SERVER, FORBIDDEN, BLACK_HOLE, UNREACHABLE, OUTSIDE = (
    "198.51.100.10", "198.51.100.66", "198.51.100.77", "198.51.100.78", "203.0.113.9"
)  # fmt: skip
DNS = "198.51.100.53"
NOBODY = "10.77.0.200"

POLICIES = """
apiVersion: v1
kind: Pod
metadata:
  name: sales-x1
  namespace: airflow
  uid: {uid}
  labels: {{kubernetes_executor: "True", dag_id: sales, task_id: extract, app: sales}}
  annotations: {{dag_id: sales, task_id: extract, run_id: r2, try_number: "1"}}
spec: {{serviceAccountName: sales, nodeName: n1, containers: [{{name: base}}]}}
status: {{podIP: {ip}, phase: Running}}
---
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: servers, namespace: airflow}}
spec:
  subject: {{dagIds: [finance]}}
  egress:
  - name: servers
    to: [{{cidr: 198.51.100.0/24}}, {{tasks: {{dagIds: [sales]}}}}]
  deny:
  - {{name: secrets, to: [{{cidr: {forbidden}/32}}], reason: ask the data office}}
---
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: sales-in, namespace: airflow}}
spec: {{subject: {{dagIds: [sales]}}, ingress: []}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: native, namespace: airflow}}
spec: {{podSelector: {{matchLabels: {{app: sales}}}}, policyTypes: [Egress], egress: []}}
"""


@dataclass(frozen=True)
class Case:
    """`act` in the pod; `seen` of it what the task saw; of the explanation these fields, and `says` in its words."""

    act: Callable[..., Any]
    args: tuple[Any, ...]
    seen: str
    found: dict[str, Any]
    says: str
    of: str = "finance"


def asked(port: int, seen: str, cause: str, step: str, says: str, *, detail: str = "", **more: Any) -> Case:
    """TCP to a server that policies allow."""
    address, timeout = more.get("address", SERVER), more.get("timeout", 5.0)
    found = {"cause": cause, "detail": detail, "address": address, "port": port, "verdict": "allow",
             "rule": "TaskNetworkPolicy/airflow/servers/servers", "steps": [step]}  # fmt: skip
    return Case(failing.ask, (address, port, timeout), seen, found, says)


def denied(address: str, reason: str, step: str, says: str, **found: Any) -> Case:
    fields = {"cause": "denied", "reason": reason, "address": address, "verdict": "deny", "steps": [step]} | found
    return Case(failing.ask, (address, 8001), "EACCES", fields, says)


CASES = {
    "refused": asked(9, "ECONNREFUSED", "refused", "check_listener", "refused: TCP to 198.51.100.10:9"),
    "blackhole": asked(80, "TIMEOUT", "syn_timeout", "check_other_firewalls", "then the task gave up",
                       address=BLACK_HOLE, timeout=1.6),
    "blackhole, and patient": asked(81, "ETIMEDOUT", "syn_timeout", "check_other_firewalls", "SYN in 3.",
                                    address=BLACK_HOLE, timeout=20.0),
    "unreachable": asked(80, "EHOSTUNREACH", "unreachable", "check_route", "No route to host", detail="EHOSTUNREACH",
                         address=UNREACHABLE),
    "reset": asked(8101, "ECONNRESET", "reset", "check_server", ", before a byte of an answer"),
    "closed early": asked(8102, "closed", "closed_early", "check_server", "before it sent a byte"),
    **{
        f"HTTP {code}": asked(8000 + code, f"HTTP/1.1 {code}", "http_status", step, f"the peer answered {code}",
                              detail=str(code))
        for code, step in ((401, "check_credentials"), (403, "check_permission"), (407, "check_proxy"),
                           (429, "slow_down"), (503, "check_server"))
    },
    "TLS alert": Case(
        failing.ask_old_tls, (SERVER, 8443), "TLSV1_ALERT_PROTOCOL_VERSION",
        {"cause": "tls_alert", "detail": "protocol_version", "port": 8443, "steps": ["check_tls"]},
        "the peer answered protocol_version",
    ),
    "no rule": denied(OUTSIDE, "no_rule", "add_rule", "isolated by TaskNetworkPolicy/airflow/finance-egress"),
    "deny rule": denied(FORBIDDEN, "deny_rule", "ask_author", "servers/secrets forbids it: ask the data office",
                        rule="TaskNetworkPolicy/airflow/servers/secrets"),
    "unknown peer": denied(NOBODY, "unknown_peer", "check_address", "no pod or service is known at this address"),
    "NetworkPolicy": Case(failing.ask, (OUTSIDE, 8001), "EACCES", {"cause": "denied", "reason": "no_rule",
                          "layer": "NetworkPolicy", "steps": ["add_native_rule"]}, "a NetworkPolicy isolates the pod",
                          of="sales"),
    "raw socket": Case(raw_socket, (), "EPERM", {"cause": "denied", "reason": "raw_socket", "steps": ["allow_raw"]},
                       "a raw ICMP socket"),
    "socket family": Case(a_socket, (socket.AF_PACKET,), "EPERM", {"cause": "denied", "reason": "socket_family",
                          "steps": ["other_socket"]}, "an AF_PACKET socket"),
}  # fmt: skip


class Theatre:
    def __init__(self, node: ScratchNode, folder: Path) -> None:
        self.sales = node.add_pod()
        self.running = Running(
            node, folder, "--network-policy", "--config", str(self._config(folder)), "--baseline", "dns"
        )
        self.pods: dict[str, Pod] = {"finance": self.running.pod, "sales": self.sales}
        written = POLICIES.format(uid=self.sales.uid, ip=self.sales.ipv4, forbidden=FORBIDDEN)
        (folder / "manifests" / "why.yaml").write_text(written)
        node.serve(SERVER, 8001)
        self.servers = [
            failing.FailingServer(node, SERVER, port, answer)
            for port, answer in {
                8101: failing.reset, 8102: failing.close_early,
                8443: failing.newest_tls_only(failing.make_certificate(folder / "server.pem")),
                **{8000 + code: failing.status(code) for code in (401, 403, 407, 429, 503)},
            }.items()
        ]  # fmt: skip
        self.resolver = Resolver(node, DNS)
        self.resolver.reply = refuse
        ip(f"route add blackhole {BLACK_HOLE}", f"route add unreachable {UNREACHABLE}", netns=node.world)
        self._few_tries()
        assert eventually(lambda: self.pods["finance"].run(failing.ask, SERVER, 8001)[0].startswith("GET"), 20)

    @staticmethod
    def _config(folder: Path) -> Path:
        path = folder / "config.yaml"
        path.write_text(f"dns: [{DNS}]\n")
        return path

    def _few_tries(self) -> None:
        """The kernel gives a SYN up after 3 s, not after two minutes."""
        self.pods["finance"].run(Path("/proc/sys/net/ipv4/tcp_syn_retries").write_text, "1")

    def why(self, dag: str, *words: str) -> list[dict[str, Any]]:
        found: Any = self.running.json("why", "--dag", dag, "--last", "1000", *words)
        return list(found["failures"])

    def one(self, dag: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """The explanation that has these fields, or the nearest one."""
        rows: list[dict[str, Any]] = []

        def score(row: dict[str, Any]) -> int:
            return sum(row[name] == value for name, value in wanted.items())

        def is_there() -> bool:
            rows[:] = sorted(self.why(dag), key=score)
            return bool(rows) and score(rows[-1]) == len(wanted)

        eventually(is_there, 10)
        assert rows, "no failure is known"
        return rows[-1]

    def close(self) -> None:
        for server in self.servers:
            server.close()
        self.resolver.close()
        self.running.process.kill()
        self.running.process.wait(30)
        self.running.log.close()
        detach(self.running.pins)


def refuse(query: dns.message.Message) -> bytes:
    """`fails.example` fails, no other name exists."""
    made = dns.message.make_response(query)
    fails = query.question[0].name.to_text() == "fails.example."
    made.set_rcode(dns.rcode.SERVFAIL if fails else dns.rcode.NXDOMAIN)
    return made.to_wire()


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    with ScratchNode() as node:
        made = Theatre(node, tmp_path_factory.mktemp("agent"))
        try:
            yield made
        finally:
            made.close()


def has(theatre: Theatre, feature: str) -> bool:
    status: Any = theatre.running.json("status")
    return bool(dict(status["features"])[feature])


@pytest.mark.parametrize("name", CASES)
def test_each_failure_is_explained(theatre: Theatre, name: str) -> None:
    case = CASES[name]
    if name == "socket family" and not has(theatre, "lsm_cgroup"):
        pytest.skip("the kernel has no lsm_cgroup")
    got = theatre.pods[case.of].run(case.act, *case.args, timeout=60)
    seen, pid, comm = got if isinstance(got, tuple) else (got, 0, "")
    assert seen in (case.seen, {"EACCES": "EPERM"}.get(case.seen))
    row = theatre.one(case.of, case.found)
    assert {field: row[field] for field in case.found} == case.found
    assert case.says in " ".join((row["text"], *row["notes"]))
    assert row["next"]
    assert all(row["next"])
    if pid:
        assert (row["pid"], row["comm"]) == (pid, comm)
    print(json.dumps(row, indent=1))


@pytest.mark.parametrize(
    ("name", "server", "rcode", "step"),
    [("no-such.example", DNS, "nxdomain", "check_name"), ("fails.example", DNS, "servfail", "check_resolver")],
)
def test_lookups_in_vain(theatre: Theatre, name: str, server: str, rcode: str, step: str) -> None:
    theatre.pods["finance"].run(look_up, server, name)
    row = theatre.one("finance", {"cause": "lookup", "reason": rcode})
    assert (row["reason"], row["steps"]) == (rcode, [step])
    assert name in row["text"]


def test_a_silent_resolver(theatre: Theatre) -> None:
    theatre.resolver.reply = lambda _: None
    try:
        assert theatre.pods["finance"].run(look_up, DNS, "any.example") == []
        row = theatre.one("finance", {"cause": "lookup", "reason": "no_answer"})
    finally:
        theatre.resolver.reply = refuse
    assert row["text"] == f"no answer: the DNS server {row['peer']} ({DNS}) was asked and is silent"
    assert row["steps"] == ["check_resolver"]


def test_the_other_end_denies(theatre: Theatre) -> None:
    """P14: the caller's own rules allow it, the ingress of its peer does not; both see it."""
    theatre.sales.spawn(failing.listen, 8001)
    assert eventually(lambda: theatre.pods["finance"].run(failing.ask, theatre.sales.ipv4, 8001, 1.5)[0] == "TIMEOUT")
    row = theatre.one("finance", {"end": "other"})
    assert row["text"].startswith("at the other end, pod airflow/sales-x1 (sales/extract): denied: TCP from")
    row = theatre.one("finance", {"cause": "syn_timeout", "address": theatre.sales.ipv4})
    assert row["steps"] == ["add_rule_there"]
    assert [(end["pod"], end["verdict"]) for end in row["other_ends"]] == [("sales-x1", "deny")]


def test_repeated_failures_are_one_with_a_count_and_a_span(theatre: Theatre) -> None:
    for _ in range(5):
        theatre.pods["finance"].run(failing.ask, SERVER, 11)
    assert eventually(lambda: [row["events"] for row in theatre.why("finance") if row["port"] == 11] == [5], 10)
    (row,) = [row for row in theatre.why("finance", "--run", "r1") if row["port"] == 11]
    assert 0 < row["last"] - row["first"] < 10
    text = theatre.running.command("why", "--dag", "finance", "--pod", "finance-load-x1")
    assert "5 times, " in text
    assert "next: check that a server listens on port 11" in text


def test_outcomes_are_in_every_output(theatre: Theatre) -> None:
    theatre.pods["finance"].run(failing.ask, SERVER, 12)
    theatre.pods["finance"].run(failing.ask, SERVER, 8001)
    running = theatre.running
    who = {"namespace": "airflow", "dag_id": "finance", "task_id": "load"}
    assert eventually(lambda: running.value("dagwall_task_connection_failures_total", **who, cause="refused") > 0, 10)
    assert eventually(lambda: running.value("dagwall_task_round_trip_seconds_count", **who) > 0, 10)
    assert eventually(lambda: running.value("dagwall_task_first_byte_seconds_count", **who) > 0, 10)
    flows: Any = running.json("flows", "--reason", "refused", "--to-port", "12")
    assert {(row["kind"], row["verdict"]) for row in flows} == {("outcome", "allow")}
    logged = [line for line in running.lines() if line["verdict"] == "ERROR"]
    assert any("refused: TCP to 198.51.100.10:12" in str(line["Summary"]) for line in logged)
