"""`dagwall run` as people start it, on a scratch node: what it serves, logs and answers about real packets."""

from __future__ import annotations

import json
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.kernel.datapath import detach
from agent.kernel.pins import Pins
from lab.node import ScratchNode, cgroup_mount
from tests.hubble_client import HubbleClient, as_json
from tests.kernel.agent_process import START_SECONDS
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp

V4 = "192.0.2.50"
DAGWALL = (sys.executable, "-c", "from agent.cli import main; main()")

MANIFESTS = """
apiVersion: v1
kind: Namespace
metadata: {{name: airflow, labels: {{dagwall.io/managed: "true"}}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: finance-load-x1
  namespace: airflow
  uid: {uid}
  labels: {{kubernetes_executor: "True", dag_id: finance, task_id: load}}
  annotations: {{dag_id: finance, task_id: load, run_id: r1, try_number: "1"}}
spec: {{serviceAccountName: etl, nodeName: n1, containers: [{{name: base}}]}}
status: {{podIP: {ip}, phase: Running}}
---
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: finance-egress, namespace: airflow}}
spec:
  subject: {{serviceAccounts: [etl]}}
  egress:
  - name: warehouse
    to: [{{cidr: {v4}/32}}]
    ports: [{{port: 8001}}]
---
apiVersion: dagwall.io/v1alpha1
kind: TaskNetworkPolicy
metadata: {{name: broken, namespace: airflow}}
spec: {{egres: []}}
"""


def own(problems: list[str]) -> list[str]:
    """Problems that are not other scratch nodes'."""
    return [problem for problem in problems if not problem.startswith("containers outside the pods' roots")]


class Running:
    """An agent in a process of its own, and commands that ask it."""

    def __init__(self, node: ScratchNode, folder: Path, *more: str, within: Sequence[str] = ()) -> None:
        """`more`: flags besides the usual ones; `within`: a command that runs it."""
        self._within = within
        self.folder, self.flow_log = folder, folder / "flows.log"
        self.pod = node.add_pod()
        files = folder / "manifests"
        files.mkdir()
        (files / "all.yaml").write_text(MANIFESTS.format(uid=self.pod.uid, ip=self.pod.ipv4, v4=V4))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.metrics = f"127.0.0.1:{probe.getsockname()[1]}"
        root = f"/{node.kubepods.relative_to(cgroup_mount())}"
        self.socket, self.pins = folder / "dagwall.sock", node.bpffs / "dagwall"
        flags = {
            "files": files, "node": "n1", "cgroup-root": root, "pins": self.pins, "state": folder / "state",
            "socket": self.socket, "metrics": self.metrics, "flow-log": self.flow_log, "log-folders": folder / "logs",
            "drain-interval": 0.2, "baseline": "none", "pod-cidr": "10.77.0.0/16", "event-rate": 1000,
            "event-burst": 1000, "audit-log": folder / "audit" / "audit.log",
        }  # fmt: skip
        self.flags = [*(text for name, value in flags.items() for text in (f"--{name}", str(value))), *more]
        self.log = open(folder / "agent.log", "wb")  # noqa: SIM115  closed by stop()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([*self._within, *DAGWALL, "run", *self.flags], stderr=self.log)
        assert eventually(lambda: self.process.poll() is not None or self.ready(), START_SECONDS)
        assert self.process.poll() is None, self.said()

    def ready(self) -> bool:
        """Other scratch nodes on this machine have containers too, which this agent rightly complains about."""
        code, text = self.get("/readyz")
        problems = [line for line in text.splitlines() if not line.startswith("off on this node: ")]
        return code == 200 or (code == 503 and own(problems) == [])

    def said(self) -> str:
        return (self.folder / "agent.log").read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def value(self, name: str, **labels: str) -> float:
        code, text = self.get("/metrics")
        assert code == 200, self.said()
        families = text_string_to_metric_families(text)
        samples = (sample for family in families for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def settled(self, name: str, **labels: str) -> float:
        """The value when it has not moved for longer than the agent takes to publish."""
        value, since = self.value(name, **labels), time.monotonic()
        while time.monotonic() - since < 4:
            time.sleep(0.2)
            now = self.value(name, **labels)
            if now != value:
                value, since = now, time.monotonic()
        return value

    def command(self, *words: str, code: int | None = 0) -> str:
        command = [*DAGWALL, *words, "--socket", str(self.socket)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout

    def json(self, *words: str) -> object:
        return json.loads(self.command(*words, "-o", "json", code=None))

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line)["flow"] for line in self.flow_log.read_text().splitlines()]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ScratchNode() as node:
        node.serve(V4, 8001)
        node.serve(V4, 8002)
        agent = Running(node, tmp_path_factory.mktemp("agent"))
        try:
            for port in (8001, 8001, 8002, 8002, 8002):
                agent.pod.run(tcp, V4, port)
            yield agent
        finally:
            agent.process.kill()
            agent.process.wait(30)
            agent.log.close()
            detach(agent.pins)


def test_detach_is_refused_beside_the_agent(running: Running) -> None:
    """It would attach again, and the emergency would go on behind a word that it is over."""
    command = [*DAGWALL, "detach", "--yes", "--pins", str(running.pins), "--socket", str(running.socket)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "an agent runs here and would attach again within seconds: end it first" in done.stderr
    assert Pins(running.pins).all_links()


def test_status_says_what_is_there(running: Running) -> None:
    status = running.json("status")
    assert isinstance(status, dict)
    assert (own(status["problems"]), status["policies"]) == ([], 1)
    assert status["revision"] == status["programmed"]
    assert {hook["hook"] for hook in status["hooks"]} >= {"egress", "ingress", "connect4", "sock_create"}
    assert all(hook["attached"] for hook in status["hooks"])
    held = dict(status["features"])["lsm_cgroup"]  # then NET_RAW is no way out (L8)
    assert any("NET_RAW" in sentence for sentence in status["unenforceable"]) != held
    assert any("AF_PACKET" in sentence for sentence in status["not_covered"]) != held
    assert any("broken" in sentence for sentence in status["object_errors"])
    print(running.command("status", code=None if status["problems"] else 0))


def test_metrics_count_what_was_sent_and_denied(running: Running) -> None:
    who = {"namespace": "airflow", "dag_id": "finance", "task_id": "load", "service_account": "etl"}
    whom = {"peer": f"{V4}/32", "direction": "egress"}
    assert eventually(lambda: running.value("dagwall_task_connections_total", **who, **whom) == 2)
    assert running.value("dagwall_task_bytes_total", **who, **whom, traffic="sent") > 0
    assert eventually(lambda: running.value("dagwall_task_denied_total", **who, reason="no_rule") == 3)
    assert 0 < running.value("dagwall_map_entries", map="flows") < 20
    assert running.value("dagwall_invalid_objects") == 1
    assert 0 < running.value("dagwall_start_to_enforcing_seconds") < 60


def test_the_commands_tell_the_same_story(running: Running) -> None:
    for words in (["endpoints"], ["identities"], ["flows"], ["why", "--dag", "finance"]):
        print("$ dagwall", *words)
        print(running.command(*words))
    found = running.json("why", "--dag", "finance", "--task", "load")
    assert isinstance(found, dict)
    (why,) = found["failures"]
    assert why["events"] == 3
    assert why["text"] == (
        f"denied: TCP to {V4}:8002 ({V4}/32), no rule allows it; "
        "nearest: finance-egress/warehouse lacks port 8002/TCP"
    )
    assert [row["packets"] for row in found["totals"]] == [3]
    flows = running.json("flows", "--verdict", "allow")
    assert isinstance(flows, list)
    assert {row["rule"] for row in flows} == {"TaskNetworkPolicy/airflow/finance-egress/warehouse"}
    explained = running.command("policy", "explain", "--dag", "finance", "--to", f"{V4}:8002", code=3)
    assert explained.startswith("deny airflow/etl/finance/load (pod airflow/finance-load-x1)")
    running.command("policy", "explain", "--dag", "finance", "--to", f"{V4}:8001")


def test_the_flow_log_has_both(running: Running) -> None:
    assert eventually(lambda: {"FORWARDED", "DROPPED"} <= {str(line["verdict"]) for line in running.lines()})
    (dropped,) = {str(line["drop_reason_desc"]) for line in running.lines() if line["verdict"] == "DROPPED"}
    assert dropped == "POLICY_DENIED"
    connections = sum(line["extensions"]["value"].get("counts", {}).get("connections", 0) for line in running.lines())  # type: ignore[index]
    assert connections == 2


def test_hubble_s_clients_see_the_same(running: Running) -> None:
    client = HubbleClient(f"unix:{running.folder / 'hubble.sock'}")
    assert eventually(
        lambda: len(client.flows(whitelist=[{"verdict": ["DROPPED"], "event_type": [{"type": 1}]}])) >= 3
    )
    for verdict, port in (("DROPPED", 8002), ("FORWARDED", 8001)):
        found = client.flows(whitelist=[{"verdict": [verdict], "protocol": ["tcp"]}])
        logged = [line for line in running.lines() if line["verdict"] == verdict]
        assert {each["flow"]["uuid"] for each in found} <= {line["uuid"] for line in logged}
        assert {each["flow"]["l4"]["TCP"]["destination_port"] for each in found} == {port}
        assert {each["flow"]["source"]["pod_name"] for each in found} == {"finance-load-x1"}
    stream = client.stream(follow=True, whitelist=[{"destination_port": ["8003"]}])
    time.sleep(0.5)
    running.pod.run(tcp, V4, 8003)
    assert as_json(next(stream))["flow"]["verdict"] == "DROPPED"
    stream.cancel()
    client.close()


def test_the_audit_log_has_the_denials_and_is_whole(running: Running) -> None:
    log = running.folder / "audit" / "audit.log"
    said = [json.loads(line) for line in running.said().splitlines() if '"audit.key"' in line]
    (running.folder / "audit.pub").write_text(said[0]["public"])
    assert eventually(lambda: log.read_text().count('"kind":"denial"') >= 3)

    def audit(*words: str) -> str:
        done = subprocess.run([*DAGWALL, "audit", *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "are whole, signed through" in audit("verify", "--public-key", str(running.folder / "audit.pub"), str(log))
    report = json.loads(audit("report", "--dag", "finance", "-o", "json", str(log)))
    assert {(each["port"], each["reason"]) for each in report["denied"]} >= {("8002", "no_rule")}
    assert "TaskNetworkPolicy/airflow/finance-egress" in {each["policy"] for each in report["reachable"]}
    assert {"agent_start"} <= {each["kind"] for each in report["others"]}


def test_a_claim_that_a_binding_forbids_is_quarantined_and_told(running: Running) -> None:
    """I5, L4; a test of policy, and then all is as before."""
    binding = running.folder / "manifests" / "binding.yaml"
    spec = "namespace: airflow, serviceAccounts: [etl], dagIds: [reports], posture: enforce"
    head = "apiVersion: dagwall.io/v1alpha1\nkind: TaskIdentityBinding\nmetadata: {name: etl}\n"
    binding.write_text(f"{head}spec: {{{spec}}}\n")
    try:
        assert eventually(lambda: running.pod.run(tcp, V4, 8001) != "ok", 10)
        (row,) = (row for row in running.json("endpoints") if row["pod"] == "finance-load-x1")  # type: ignore[attr-defined]
        assert (row["state"], row["binding"]) == ("quarantined", "etl")
        assert "TaskIdentityBinding/etl" in row["contradictions"][-1]
        assert "TaskIdentityBinding" in running.command("endpoints")
        assert running.value("dagwall_contradicting_pods") >= 1
        assert "endpoint.contradicts" in running.said()
        assert '"policy": "TaskIdentityBinding/etl", "change": "came"' in running.said()
        assert '"state": "quarantined"' in running.said()
        assert eventually(lambda: running.value("dagwall_task_denied_total", reason="quarantined") > 0)
    finally:
        binding.unlink()
    assert eventually(lambda: running.pod.run(tcp, V4, 8001) == "ok", 10)
    assert eventually(lambda: '"change": "went"' in running.said() and '"before": "quarantined"' in running.said())


def test_following_shows_what_happens_now(running: Running) -> None:
    command = ["env", "--default-signal=INT"]  # tests that a shell put in the background inherit it ignored
    command += [*DAGWALL, "flows", "-f", "--last", "0", "--verdict", "deny", "--socket", str(running.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        try:
            assert follower.stdout is not None
            assert follower.stdout.readline().split()[:3] == ["TIME", "TASK", "PEER"]
            with selectors.DefaultSelector() as selector:
                selector.register(follower.stdout, selectors.EVENT_READ)
                assert eventually(lambda: running.pod.run(tcp, V4, 8002) != "ok" and bool(selector.select(0.2)), 10)
            assert f"{V4}:8002/TCP" in follower.stdout.readline()
            follower.send_signal(signal.SIGINT)
            assert follower.wait(10) == 0
        finally:
            follower.kill()


def test_a_denial_that_waited_for_the_next_agent_keeps_its_names(running: Running) -> None:
    """It stays in the ring buffer of an agent that was stopped, then killed; the next one gives other slots."""
    running.process.send_signal(signal.SIGSTOP)
    assert running.pod.run(tcp, V4, 8002) != "ok"
    running.process.kill()
    running.process.wait(30)
    running.start()
    assert eventually(lambda: "denied: TCP to" in running.command("why", "--dag", "finance", "--task", "load"), 10)
    flows = running.json("flows", "--verdict", "deny")
    assert isinstance(flows, list)
    assert {(row["pod"], row["dag_id"]) for row in flows} == {("finance-load-x1", "finance")}


def test_denials_go_on_counting_when_the_agent_is_started_again(running: Running) -> None:
    before = running.settled("dagwall_task_denied_total", reason="no_rule")
    assert running.stop() == 0
    assert not running.socket.exists()
    assert "agent.stopped" in running.said()
    assert "what is enforced stays enforced" in running.said()
    running.pod.run(tcp, V4, 8002)
    running.start()
    assert eventually(lambda: running.value("dagwall_task_denied_total", reason="no_rule") == before + 1)
