"""Task pods come and go at 40 a second on one node, by a real API server and cgroups as the kubelet makes them.

CHURN_SECONDS (20) and CHURN_RATE (40) change the load. Every twentieth pod has a network namespace and connects at
once, where a task would be seconds later: to what its policy allows and to what it does not. What is measured is
printed (pytest -s); what fails is a wrong verdict, and anything that stays when all pods have gone.

The agent is a process of its own, as in production, but that entries outlive their folder (L4) for 5 s, not 180.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.datapath import detach
from agent.sources.kube_api import KubeApi
from lab.node import ScratchNode, cgroup_mount
from tests.api.control_plane import ROOT, ControlPlane, free_port
from tests.api.test_agent_on_api import REFUSED
from tests.api.test_definitions import served  # noqa: F401
from tests.api.test_manifests import documents
from tests.api.test_source import in_namespace
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp

SECONDS = float(os.environ.get("CHURN_SECONDS", "20"))
RATE = float(os.environ.get("CHURN_RATE", "40"))
WARM_UP = 20
SAMPLE, LIFE_SECONDS = 20, 2.0
LINGER_SECONDS = float(os.environ.get("CHURN_LINGER", "5"))
V4, ALLOWED, DENIED = "192.0.2.90", 8401, 8402
WHERE = "churn"
NOT_LET_OUT = (*REFUSED, "ECONNABORTED")  # the last: a SYN that had waited for the pod to be known, then was ended
_ENDPOINTS = 'dagwall_map_entries{map="endpoints"}'
_RUN = "import agent.sync.endpoints as e, agent.cli; e.LINGER_SECONDS = {}; agent.cli.main()"


def manifest(number: int) -> dict[str, Any]:
    """A KubernetesExecutor pod; each its own task, so that identities come and go too."""
    ids = {"dag_id": f"churn_{number % 7}", "task_id": f"t{number}", "run_id": "r1", "try_number": "1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"churn-{number}", "namespace": WHERE, "annotations": ids,
            "labels": {"kubernetes_executor": "True", **ids},
        },
        "spec": {
            "nodeName": "n1", "automountServiceAccountToken": False, "containers": [{"name": "base", "image": "none"}]
        },
    }  # fmt: skip


class AgentProcess:
    """`dagwall run` and what it says about itself."""

    def __init__(self, node: ScratchNode, kubeconfig: Path, folder: Path) -> None:
        self._metrics, self.log = f"127.0.0.1:{free_port()}", folder / "agent.log"
        command = [
            sys.executable, "-c", _RUN.format(LINGER_SECONDS), "run", "--node", "n1", "--kubeconfig", kubeconfig,
            "--cgroup-root", f"/{node.kubepods.relative_to(cgroup_mount())}", "--pins", node.bpffs / "dagwall",
            "--state", folder / "state", "--socket", folder / "s.sock", "--metrics", self._metrics,
            "--log-folders", folder / "logs",
        ]  # fmt: skip
        with open(self.log, "wb") as log:
            environment = os.environ | {"MALLOC_ARENA_MAX": "1"}  # as daemonset.yaml has it
            self._process = subprocess.Popen([str(c) for c in command], stderr=log, cwd=ROOT, env=environment)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def metrics(self) -> dict[str, float]:
        """Values by name and labels; nothing while nobody answers."""
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=5) as got,
        ):
            lines = (line.rpartition(" ") for line in got.read().decode().splitlines() if not line.startswith("#"))
            return {name: float(value) for name, _, value in lines}
        return {}

    def kept(self) -> dict[str, float]:
        """What may not grow: endpoints by state, and entries of maps that have to do with pods.

        Numbers of identities stay with them until the last one is given out (I6): they are bounded, not freed.
        """
        wanted = re.compile(r'dagwall_endpoints\{|dagwall_map_entries\{map="(endpoints|rules|hosts|peers)"')
        return {name: value for name, value in self.metrics().items() if wanted.match(name)}

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def latencies(self) -> list[float]:
        """Of every snapshot: seconds from reading it to the last map write."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line["seconds"] for line in lines if line["event"] == "snapshot.programmed"]


class Kubelet:
    """Binds pods and makes their cgroups; takes both away after LIFE_SECONDS. `wrong`: of sampled pods."""

    def __init__(self, plane: ControlPlane, node: ScratchNode) -> None:
        self._api, self._node = KubeApi.connect(str(plane.kubeconfig())), node
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # more threads than it keeps connections
        self._path = f"/api/v1/namespaces/{WHERE}/pods"
        self._sampled: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self.made, self.gone = 0, 0
        self.wrong: list[str] = []
        self.verdicts: Counter[str] = Counter()
        self.first_connects: list[float] = []

    def one(self, number: int) -> None:
        """The life of a pod."""
        made = self._api.send("POST", self._path, manifest(number))
        self.made += 1
        name, uid = made["metadata"]["name"], made["metadata"]["uid"]
        if number % SAMPLE == 0:
            self._sampled.put((name, uid))  # its life ends when it has been asked
            return
        folder = self._node.kubepods / "burstable" / f"pod{uid}"
        container = folder / (uuid.uuid4().hex * 2)
        container.mkdir(parents=True)
        status = {"status": {"phase": "Running", "podIP": f"10.88.{number // 250 % 250}.{number % 250}"}}
        self._api.send("PATCH", f"{self._path}/{name}/status", status, kind="application/merge-patch+json")
        time.sleep(LIFE_SECONDS)
        container.rmdir()
        folder.rmdir()
        self._delete(name)

    def ask_sampled(self) -> None:
        """One thread: a network namespace each, two connections, gone."""
        while (found := self._sampled.get()) is not None:
            name, uid = found
            pod = self._node.add_pod(uid)
            began = time.monotonic()
            allowed = pod.run(tcp, V4, ALLOWED, 10.0)
            self.first_connects.append(time.monotonic() - began)
            denied = pod.run(tcp, V4, DENIED)
            self.verdicts.update((f"allowed: {allowed}", f"denied: {denied}"))
            if allowed != "ok" or denied not in NOT_LET_OUT:
                self.wrong.append(f"{name}: allowed {allowed}, denied {denied}")
            for folder in (pod.container, pod.folder):
                eventually(lambda folder=folder: _removed(folder), 5)  # type: ignore[misc]
            self._delete(name)

    def end(self) -> None:
        self._sampled.put(None)

    def _delete(self, name: str) -> None:
        self._api.send("DELETE", f"{self._path}/{name}", {"gracePeriodSeconds": 0})
        self.gone += 1


def _removed(folder: Path) -> bool:
    """A process of it may still be on its way out."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def churn(kubelet: Kubelet, numbers: range) -> float:
    """A pod for each number at RATE a second; how long it took to make them all."""
    asking = threading.Thread(target=kubelet.ask_sampled)
    asking.start()
    began = time.monotonic()
    with ThreadPoolExecutor(int(RATE * (LIFE_SECONDS + 2))) as pool:
        lives = []
        for i, number in enumerate(numbers):
            time.sleep(max(0.0, began + i / RATE - time.monotonic()))
            lives.append(pool.submit(kubelet.one, number))
        took = time.monotonic() - began
        for life in lives:
            life.result()
    kubelet.end()
    asking.join()
    return took


@contextmanager
def agent_on(node: ScratchNode, plane: ControlPlane, folder: Path) -> Iterator[AgentProcess]:
    plane.apply(*(obj for obj in documents(ROOT / "daemonset.yaml") if obj["kind"] != "DaemonSet"))
    agent = AgentProcess(node, plane.token_kubeconfig("dagwall-system", "dagwall-agent"), folder)
    try:
        assert eventually(lambda: agent.metrics().get("dagwall_policies", 0) > 0, 30), agent.log.read_text()[-2000:]
        yield agent
    finally:
        agent.stop()
        detach(node.bpffs / "dagwall")


@pytest.mark.timeout(SECONDS + 120 + 2 * LINGER_SECONDS)
def test_pods_that_come_and_go(plane: ControlPlane, served: ControlPlane, tmp_path: Path) -> None:  # noqa: F811
    in_namespace(plane, WHERE, **{"dagwall.io/managed": "true"})
    rule = {"name": "only", "to": [{"cidr": f"{V4}/32"}], "ports": [{"port": ALLOWED}]}
    plane.apply({
        "apiVersion": "dagwall.io/v1alpha1", "kind": "TaskNetworkPolicy",
        "metadata": {"name": "churn", "namespace": WHERE},
        "spec": {"subject": {"dagIds": ["churn_*"]}, "egress": [rule]},
    })  # fmt: skip
    with ScratchNode() as node, agent_on(node, plane, tmp_path) as agent:
        node.serve(V4, ALLOWED)
        node.serve(V4, DENIED)
        churn(Kubelet(plane, node), range(WARM_UP))
        assert eventually(lambda: not agent.metrics()[_ENDPOINTS], LINGER_SECONDS + 15), agent.kept()
        time.sleep(1.5)  # metrics are made at most once a second
        before, memory = agent.kept(), agent.resident_mb()
        kubelet = Kubelet(plane, node)
        cpu, began, first = agent.cpu_seconds(), time.monotonic(), len(agent.latencies())
        count = int(SECONDS * RATE)
        took = churn(kubelet, range(WARM_UP, WARM_UP + count))
        cpu, elapsed = agent.cpu_seconds() - cpu, time.monotonic() - began
        loaded, peak = agent.kept(), agent.resident_mb()
        seconds = sorted(agent.latencies()[first:])
        gone = eventually(lambda: agent.kept() == before, LINGER_SECONDS + 15)
        after = agent.resident_mb()
        connects = sorted(kubelet.first_connects)
        print(
            f"\n{kubelet.made} pods made in {took:.1f} s: {kubelet.made / took:.1f}/s; {len(connects)} asked: "
            f"{dict(kubelet.verdicts)}\nread to programmed, {len(seconds)} snapshots: p50 {_ms(seconds, 0.5)}, "
            f"p99 {_ms(seconds, 0.99)}, most {_ms(seconds, 1)}\nfirst connect of a pod after its cgroup was made: "
            f"p50 {statistics.median(connects) * 1e3:.0f} ms, most {connects[-1] * 1e3:.0f} ms\n"
            f"agent: {cpu / elapsed * 100:.0f} % of a core, {memory:.0f} MB before, {peak:.0f} MB with all, "
            f"{after:.0f} MB after"
        )
        assert kubelet.made == kubelet.gone == count
        assert not kubelet.wrong
        assert gone, f"left: {agent.kept()}, before: {before}, at the end of the load: {loaded}"
        assert after < memory + 25, "memory of pods that have gone"


def _ms(ordered: list[float], share: float) -> str:
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3:.1f} ms"
