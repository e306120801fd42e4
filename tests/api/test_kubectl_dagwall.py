"""`kubectl dagwall` by a real kubectl and a real API server, to agents' own sockets and command line on three nodes.

There is no kubelet: tests/api/kubelet.py plays its exec endpoint and runs what it is asked for on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model.node_state import View
from agent.outputs.api import ApiServer
from agent.outputs.questions import Questions
from agent.outputs.recent import Recent
from tests.api.control_plane import ROOT, ControlPlane
from tests.api.kubelet import Kubelet
from tests.api.test_source import in_namespace
from tests.helm.chart import tools
from tests.unit.seen import VIEW, denial, flow, unready

NAMESPACE = "walls"
LABELS = {"app.kubernetes.io/name": "dagwall", "app.kubernetes.io/component": "agent"}


class Node:
    """One node's agent: its local API, with flows and a view of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.socket, self.recent, self.view = name, folder / f"{name}.sock", Recent(), VIEW
        self.server = ApiServer(self.socket, Questions(self._view, lambda: VIEW.state.cluster, self.recent))
        self.server.start()

    def _view(self) -> View:
        return replace(self.view, state=replace(self.view.state, facts=replace(VIEW.state.facts, node=self.name)))

    def stop(self) -> None:
        self.recent.stop()
        self.server.stop()


class Walls:
    """Three nodes, the kubelet that plays theirs, and a kubectl that finds the plugin."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder, self.hanging, self.old = plane, folder, set(), set()  # type: ignore[var-annotated]
        self.nodes = {name: Node(folder, name) for name in ("n1", "n2", "n3")}
        self.kubelet = Kubelet(plane.folder / "pki", self._command)
        plugin = folder / "bin" / "kubectl-dagwall"
        plugin.parent.mkdir()
        plugin.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m agent.cli.kubectl "$@"\n')
        plugin.chmod(0o755)

    def _command(self, pod: str, words: list[str]) -> subprocess.Popen[bytes] | None:
        node = pod.removeprefix("dagwall-agent-")
        if node in self.hanging:
            return None
        if node in self.old:
            words = [words[0], "as" + words[1], *words[2:]]
        own = os.environ | {"DAGWALL_ASK_SOCKET": str(self.nodes[node].socket)}
        assert words[0] == "dagwall"
        return subprocess.Popen(
            [sys.executable, "-m", "agent", *words[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=own,
            cwd=ROOT,
        )

    def install(self) -> None:
        in_namespace(self.plane, NAMESPACE)
        for name in self.nodes:
            status = {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self.kubelet.port}},
            }
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}
            self.plane.delete(node)
            self.plane.apply(node)
            self.pod(name, {"running": {}})

    def pod(self, node: str, state: dict[str, Any]) -> None:
        pod: dict[str, Any] = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": f"dagwall-agent-{node}", "namespace": NAMESPACE, "labels": LABELS},
            "spec": {
                "nodeName": node, "automountServiceAccountToken": False,
                "containers": [{"name": "agent", "image": "dagwall"}],
            },
        }  # fmt: skip
        self.plane.delete(pod)
        self.plane.apply(pod)
        container = {
            "name": "agent",
            "image": "dagwall",
            "imageID": "",
            "restartCount": 0,
            "ready": True,
            "state": state,
        }
        status = {"status": {"phase": "Running", "containerStatuses": [container]}}
        path = f"{self.plane.path_of(pod, named=True)}/status"
        self.plane.request("PATCH", path, status, kind="application/merge-patch+json")

    def kubectl(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), env=self.environment(), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def command(self, *words: str) -> list[str]:
        return [str(tools() / "kubectl"), "dagwall", *words, f"--agents={NAMESPACE}"]

    def environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return os.environ | {"PATH": path, "KUBECONFIG": str(self.plane.kubeconfig()), "COLUMNS": "200"}


@pytest.fixture
def walls(plane: ControlPlane, tmp_path: Path) -> Iterator[Walls]:
    found = Walls(plane, tmp_path)
    with found.kubelet:
        found.install()
        yield found
    for node in found.nodes.values():
        node.stop()


def test_status_of_every_node(walls: Walls) -> None:
    lines = walls.kubectl("status").stdout.splitlines()
    assert lines[0].split() == [
        "NODE",
        "READY",
        "VERSION",
        "KERNEL",
        "POLICIES",
        "IN",
        "KERNEL",
        "ENDPOINTS",
        "PROBLEMS",
    ]
    assert [line.split()[:2] for line in lines[1:4]] == [["n1", "ready"], ["n2", "ready"], ["n3", "ready"]]
    assert lines[4] == "3 of 3 nodes are ready"
    walls.nodes["n2"].view = unready(hooks="not attached to /kubepods")
    said = walls.kubectl("status", code=1).stdout
    assert "not attached to /kubepods" in said
    assert "2 of 3 nodes are ready" in said
    rows = json.loads(walls.kubectl("status", "-o", "json", code=1).stdout)
    assert [(row["node"], row["ready"]) for row in rows] == [("n1", True), ("n2", False), ("n3", True)]


def test_one_node_says_all_that_its_own_command_says(walls: Walls) -> None:
    said = walls.kubectl("status", "--node", "n2").stdout
    assert said.startswith("ready\n")
    assert "HOOK" in said
    assert {pod for _, pod, _, _ in walls.kubelet.asked} == {"dagwall-agent-n2"}
    refused = walls.kubectl("status", "--node", "n9", code=1).stderr
    assert "no agent is on node n9 (there are some on: n1, n2, n3)" in refused


def test_flows_of_all_nodes_in_the_order_of_time(walls: Walls) -> None:
    now = time.time()
    walls.nodes["n1"].recent.flows([flow("a", time=now - 30), flow("b", time=now - 10)])
    walls.nodes["n3"].recent.flows([flow("c", time=now - 20)])
    walls.nodes["n3"].recent.denials([denial("d", time=now - 5)])
    header, *lines = walls.kubectl("flows").stdout.splitlines()
    assert header.split()[:3] == ["NODE", "TIME", "TASK"]
    assert [(line.split()[0], line.split()[2]) for line in lines] == [
        ("n1", "a/load"), ("n3", "c/load"), ("n1", "b/load"), ("n3", "d/load"),
    ]  # fmt: skip
    rows = json.loads(walls.kubectl("flows", "--last", "2", "-o", "json").stdout)
    assert [(row["node"], row["dag_id"]) for row in rows] == [("n1", "b"), ("n3", "d")]
    (row,) = json.loads(walls.kubectl("flows", "--verdict", "deny", "--not", "--to-port", "443", "-o", "json").stdout)
    assert row["dag_id"] == "d"


def test_a_name_that_one_node_knows_is_no_typo(walls: Walls) -> None:
    walls.nodes["n2"].recent.flows([flow("only-here", time=time.time())])
    (row,) = json.loads(walls.kubectl("flows", "--dag", "only-here", "-o", "json").stdout)
    assert row["node"] == "n2"
    assert "no such DAG is known here: 'nobody'" in walls.kubectl("flows", "--dag", "nobody", code=1).stderr


def test_why_and_top_add_up(walls: Walls) -> None:
    for name, seconds in (("n1", 100.0), ("n2", 90.0)):
        walls.nodes[name].recent.denials([denial(time=time.time() - seconds)])
    found = json.loads(walls.kubectl("why", "--dag", "finance", "-o", "json").stdout)
    (failure,) = found["failures"]
    assert (failure["events"], failure["nodes"]) == (2, ["n1", "n2"])
    assert found["totals"][0]["packets"] == 3 * 9
    assert "2 times" in walls.kubectl("why", "--dag", "finance").stdout
    (row,) = json.loads(walls.kubectl("top", "-o", "json").stdout)
    assert (row["dag_id"], row["sent_bytes"], row["denied_packets"]) == ("finance", 3 * 300, 3 * 9)


def test_explain_is_said_once_and_has_its_exit_code(walls: Walls) -> None:
    words = ("policy", "explain", "-n", "airflow", "--dag", "finance", "--task", "load", "--to", "192.0.2.9:443")
    answers = json.loads(walls.kubectl(*words, "-o", "json", code=3).stdout)
    assert [(answer["verdict"], answer["nodes"]) for answer in answers] == [("deny", ["n1", "n2", "n3"])]
    assert walls.kubectl(*words, code=3).stdout.count("no rule") == 1
    said = walls.kubectl("policy", "explain", "-n", "nowhere", "--dag", "x", "--to", "192.0.2.9:443", code=1).stderr
    assert said.startswith("Error: --namespace: no namespace 'nowhere' is known here"), "all say the same"
    done = walls.kubectl("policy", "check", "nowhere", code=2)
    assert "No such option" in done.stderr, "check is offline, and has no agents"


def test_doctor_of_all_nodes(walls: Walls) -> None:
    """The three nodes are this machine."""
    walls.hanging = {"n3"}
    own = subprocess.run(
        [sys.executable, "-m", "agent", "doctor", "-o", "json"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    expected = {(row["level"], row["what"]) for row in json.loads(own.stdout)}
    done = walls.kubectl("doctor", "--timeout", "20", "-o", "json", code=1)
    told = json.loads(done.stdout)
    assert {(row["level"], row["what"]) for row in told["findings"]} == expected
    assert ["n1", "n2"] in [row["nodes"] for row in told["findings"]]
    assert told["missing"] == {"n3": "no answer within 20 s"}
    said = walls.kubectl("doctor", "--node", "n1", code=own.returncode).stdout
    assert said.splitlines()[-1].startswith("1 nodes, ")


def test_who_does_not_answer_is_named_with_the_reason(walls: Walls) -> None:
    walls.nodes["n1"].recent.flows([flow("a", time=time.time())])
    walls.hanging = {"n2"}
    walls.pod("n3", {"waiting": {"reason": "CrashLoopBackOff"}})
    begin = time.monotonic()
    done = walls.kubectl("flows", "--timeout", "2", "-o", "json", code=4)
    assert time.monotonic() - begin < 15
    assert [row["node"] for row in json.loads(done.stdout)] == ["n1"]
    assert done.stderr.splitlines() == [
        "no answer from node n2: no answer within 2 s",
        "no answer from node n3: pod dagwall-agent-n3: CrashLoopBackOff",
    ]
    rows = json.loads(walls.kubectl("status", "--timeout", "2", "-o", "json", code=1).stdout)
    assert [(row["node"], row.get("error", "")) for row in rows] == [
        ("n1", ""), ("n2", "no answer within 2 s"), ("n3", "pod dagwall-agent-n3: CrashLoopBackOff"),
    ]  # fmt: skip


def test_an_agent_that_has_ended_and_one_that_is_older(walls: Walls) -> None:
    walls.nodes["n2"].server.stop()
    walls.old = {"n3"}
    done = walls.kubectl("flows", code=4)
    no_agent, too_old = done.stderr.splitlines()
    assert "no answer from node n2" in no_agent
    assert "no agent answers on" in no_agent
    assert "No such command" in too_old


def test_nobody_answers(walls: Walls) -> None:
    walls.hanging = set(walls.nodes)
    done = walls.kubectl("flows", "--timeout", "1", code=1)
    assert done.stdout == ""
    assert "Error: no agent answered: n1: no answer within 1 s; n2: no answer within 1 s" in done.stderr


def test_without_the_right(walls: Walls) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "someone", "namespace": NAMESPACE}}
    walls.plane.apply(account)
    kubeconfig = walls.plane.token_kubeconfig(NAMESPACE, "someone")
    said = walls.kubectl("status", f"--kubeconfig={kubeconfig}", code=1).stderr
    assert "403" in said
    assert "cannot list resource" in said
    assert len(said.splitlines()) == 1


def test_without_the_right_to_exec(walls: Walls) -> None:
    """One sentence of the server's for each node, and no headers."""
    made = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "reads-pods", "namespace": NAMESPACE}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": NAMESPACE}}
    role = {**made, "kind": "Role", "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads-pods"}
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": NAMESPACE}
    walls.plane.apply(account, role, {**made, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]})
    kubeconfig = walls.plane.token_kubeconfig(NAMESPACE, "reader")
    said = walls.kubectl("status", "--node", "n1", f"--kubeconfig={kubeconfig}", code=1).stderr
    assert "n1: exec in walls/dagwall-agent-n1: 403 " in said
    assert 'cannot get resource "pods/exec"' in said
    assert len(said) < 400
    assert walls.kubelet.asked == []


def test_a_context_that_is_not_there(walls: Walls) -> None:
    said = walls.kubectl("status", "--context=elsewhere", code=1).stderr
    assert "elsewhere" in said
    walls.kubectl("status", "--context=it")


@pytest.mark.parametrize("form", ["table", "compact"])
def test_followed_lines_name_their_node(walls: Walls, form: str) -> None:
    walls.nodes["n2"].recent.flows([flow("a", time=time.time())])
    words = ("flows", "-f", "--last=1", "-o", form)
    with subprocess.Popen(
        walls.command(*words), env=walls.environment(), stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2 if form == "table" else 1)]
        process.terminate()
    assert lines[-1].startswith("n2           ")
    assert "a/load" in lines[-1]
    assert form == "compact" or lines[0].split()[:3] == ["NODE", "TIME", "TASK"]
    assert form == "compact" or lines[0].index("TASK") == lines[1].index("a/load")


def test_follow_shows_what_comes_from_any_node(walls: Walls) -> None:
    process = subprocess.Popen(
        walls.command("flows", "-f", "--last=0", "-o", "json"),
        env=walls.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + 30
        while len(walls.kubelet.asked) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        seen: set[tuple[str, str]] = set()
        time.sleep(3)  # until the agents have their subscribers
        walls.nodes["n1"].recent.flows([flow("a", time=time.time())])
        walls.nodes["n3"].recent.denials([denial("b", time=time.time())])
        while len(seen) < 2:
            row = json.loads(process.stdout.readline())
            seen.add((row["node"], row["dag_id"]))
        assert seen == {("n1", "a"), ("n3", "b")}
    finally:
        process.terminate()
        process.wait(10)
