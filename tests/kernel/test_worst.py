"""The worst policies applied to a running agent over and over: its probes answer, its memory stays below
the DaemonSet's limit, and another namespace's changes are in force all the while (P17).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.datapath import detach
from lab.memory import MemoryLimit
from lab.node import ScratchNode
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp
from tests.kernel.test_outputs import V4, Running

Obj = dict[str, Any]
LIMIT = 512 << 20
PROBE_SECONDS = 5.0
"""`limits.memory` and `timeoutSeconds` of deploy/base/daemonset.yaml."""
REFUSED = ("EACCES", "EPERM")


NAMESPACE: Obj = {
    "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "worst", "labels": {"dagwall.io/managed": "true"}},
}  # fmt: skip


def task_policy(name: str, rules: list[Obj], dag: str = "*") -> Obj:
    return {
        "apiVersion": "dagwall.io/v1alpha1", "kind": "TaskNetworkPolicy",
        "metadata": {"name": name, "namespace": "worst"}, "spec": {"subject": {"dagIds": [dag]}, "egress": rules},
    }  # fmt: skip


def pod(i: int, dag: str = "") -> Obj:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": f"p{i}", "namespace": "worst", "uid": f"00000000-0000-4000-8000-{i:012}",
            "labels": {"app": f"a{i}"}, "annotations": {"dag_id": dag or f"dag{i}", "task_id": "t"},
        },
        "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [{"name": "base"}]},
        "status": {"phase": "Running", "podIP": f"10.78.{i >> 8}.{i & 255}"},
    }  # fmt: skip


def inside_of_ports() -> list[Obj]:
    ports = [{"port": 3 + 2 * i} for i in range(999)]
    inner = [{"to": [{"cidr": f"20.{i >> 8}.{i & 255}.0/24"}]} for i in range(300)]
    return [pod(0), task_policy("big", [{"to": [{"cidr": "20.0.0.0/9"}], "ports": ports}, *inner])]


def holes(count: int, pods: int) -> Callable[[], list[Obj]]:
    def made() -> list[Obj]:
        except_ = (f"20.{i >> 8}.{i & 255}.0/24" for i in range(count))
        rules = ([{"to": [{"cidr": "0.0.0.0/0", "except": [each]}], "ports": [{"port": 443}]}] for each in except_)
        return [*map(pod, range(pods)), *(task_policy(f"h{i}", rule, f"dag{i}") for i, rule in enumerate(rules))]

    return made


def selectors() -> list[Obj]:
    """5,000 conditions on peers for each kind of 300 pods."""
    peers = [
        {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [f"a{i}"]}]}}
        for i in range(5000)
    ]
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "native", "namespace": "worst"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers}]},
    }  # fmt: skip
    return [*map(pod, range(300)), policy]


def cidrs() -> list[Obj]:
    """As many as map `peers` has room for."""
    each = [[{"cidr": f"20.{n}.{i >> 8}.{i & 255}/32"} for i in range(9830)] for n in range(12)]
    return [pod(0), *(task_policy(f"c{n}", [{"to": peers}], "nobody") for n, peers in enumerate(each))]


def peers_without_rows() -> list[Obj]:
    """20,000 peers that hold for nobody, for each of 100 rulesets."""
    big = [[{"pods": {"podSelector": {"matchLabels": {"k": f"v{n}-{i}"}}}} for i in range(1000)] for n in range(20)]
    own = [{"to": [{"cidr": "20.0.0.1/32"}], "ports": [{"port": 443}]}]
    small = (task_policy(f"s{i}", own, f"dag{i}") for i in range(100))
    return [*map(pod, range(100)), *small, *(task_policy(f"big{n}", [{"to": each}]) for n, each in enumerate(big))]


def patterns() -> list[Obj]:
    """20,000 of them, held against 100 ids that are as long as ids may be."""
    rules = [{"to": [{"cidr": "20.0.0.1/32"}], "ports": [{"port": 443}]}]
    policies = [task_policy(f"s{n}", rules) for n in range(20)]
    for n, each in enumerate(policies):
        each["spec"]["subject"]["dagIds"] = [f"{'*a' * 118}*{i}b{n}" for i in range(1000)]
    return [*(pod(i, f"{'a' * 240}{i:04}") for i in range(100)), *policies]


def services() -> list[Obj]:
    """More external addresses than map `hosts` has room for, one Service with more than any may have, and a policy
    that names them."""

    def service(n: int, addresses: int) -> Obj:
        external = [f"30.{n}.{i >> 8}.{i & 255}" for i in range(addresses)]
        return {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": f"s{n}", "namespace": "worst"},
            "spec": {"clusterIP": f"10.96.1.{n}", "ports": [{"port": 80}], "externalIPs": external},
        }  # fmt: skip

    naming = task_policy("names", [{"to": [{"service": {"name": f"s{n}"}} for n in range(150)]}], "nobody")
    return [pod(0), naming, service(0, 60_000), *(service(n, 990) for n in range(1, 150))]


WORST: dict[str, Callable[[], list[Obj]]] = {
    "inside of ports": inside_of_ports,
    "400 holes": holes(400, 100),
    "800 holes": holes(800, 100),
    "300 holes, 300 pods": holes(300, 300),
    "5,000 podSelectors": selectors,
    "117,960 CIDRs": cidrs,
    "20,000 peers, 100 rulesets": peers_without_rows,
    "20,000 patterns, 100 pods": patterns,
    "208,000 external addresses": services,
}


class Probes(threading.Thread):
    """Asks /livez as a kubelet does, several times a second; `slowest` in seconds, `failed` counts."""

    def __init__(self, agent: Running) -> None:
        super().__init__(daemon=True)
        self.agent, self.over = agent, threading.Event()
        self.slowest, self.asked, self.failed = 0.0, 0, 0

    def run(self) -> None:
        while not self.over.wait(0.2):
            began = time.monotonic()
            code, _ = self.agent.get("/livez")
            self.asked += 1
            self.failed += code != 200
            self.slowest = max(self.slowest, time.monotonic() - began)


def peak_bytes(pid: int) -> int:
    """proc(5), status: VmHWM."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.fixture
def memory() -> Iterator[MemoryLimit]:
    memory = MemoryLimit(LIMIT)
    yield memory
    memory.close()


@pytest.fixture
def running(tmp_path: Path, memory: MemoryLimit) -> Iterator[Running]:
    with ScratchNode() as node:
        node.add_addresses(V4)
        running = Running(node, tmp_path, "--network-policy", within=(*memory.command(), "env", "MALLOC_ARENA_MAX=1"))
        try:
            yield running
        finally:
            running.process.kill()
            running.process.wait(30)
            running.log.close()
            detach(running.pins)


def native(name: str, peers: list[Obj]) -> Obj:
    spec = {"podSelector": {"matchLabels": {"app": "none"}}, "policyTypes": ["Egress"], "egress": [{"to": peers}]}
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "worst"}, "spec": spec,
    }  # fmt: skip


def blocks(name: str, count: int, of: int) -> Obj:
    return native(
        name, [{"ipBlock": {"cidr": f"{20 + i // 65536}.{of}.{i >> 8 & 255}.{i & 255}/32"}} for i in range(count)]
    )


def much_to_keep() -> Iterator[tuple[str, list[Obj]]]:
    """Files of less than 8 MiB whose objects select nobody and are each below what an API server takes."""
    for n in range(5):
        yield f"blocks{n}", [blocks(f"n{n}x{i}", 30_000, n) for i in range(6)]
    for n in range(6):
        yield f"fewer{n}", [blocks(f"f{n}x{i}", 9_990, n * 18 + i) for i in range(18)]
    for n in range(2):
        each = [[{"podSelector": {"matchLabels": {f"k{i}x{n}x{j}": "v"}}} for j in range(9_990)] for i in range(14)]
        yield f"selectors{n}", [native(f"s{n}x{i}", peers) for i, peers in enumerate(each)]
    for n in range(6):
        pods = [pod(4 * n + i) for i in range(4)]
        for each in pods:
            name = each["metadata"]["name"]
            each["metadata"]["labels"] = {f"{name}x{i}".ljust(40, "q"): f"v{i}".ljust(20, "w") for i in range(20_000)}
        yield f"labels{n}", pods


@pytest.mark.timeout(600)
def test_what_objects_bring_to_be_kept_leaves_the_agent_its_memory(running: Running, memory: MemoryLimit) -> None:
    """P17: thirty NetworkPolicies of 30,000 ipBlocks, which nothing refused, ended it at 512 MiB."""
    files = running.folder / "manifests"
    own = (files / "all.yaml").read_text()
    (files / "namespace.json").write_text(json.dumps(NAMESPACE))
    for name, items in much_to_keep():
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, separators=(",", ":"))
        assert len(text) < 8 << 20, name
        (files / f"{name}.json").write_text(text)
        time.sleep(1)
        assert running.process.poll() is None, (name, running.said()[-2000:])
    assert eventually(lambda: "Pod/worst/p23" in running.said(), 300), "all of it is read"
    (files / "all.yaml").write_text(own.replace("port: 8001", "port: 8100"))
    moved = eventually(lambda: running.pod.run(tcp, V4, 8001) in REFUSED, 60)
    assert running.process.poll() is None, running.said()[-2000:]
    assert moved, "another namespace's edit"
    print(f"peak {peak_bytes(running.process.pid) >> 20} MB, {memory.peak() >> 20} MB charged")
    assert peak_bytes(running.process.pid) < LIMIT * 7 // 8
    said = running.said()
    for name in (
        "NetworkPolicy/worst/n0x0: spec: has 30000 peers",
        "/worst/f5x17: is too big: it needs",
        "Pod/worst/p23",
    ):
        assert name in said, f"{name}: by name (P17)"


@pytest.mark.timeout(600)
def test_the_worst_policies_over_and_over_starve_nobody(running: Running, memory: MemoryLimit) -> None:
    files, probes = running.folder / "manifests", Probes(running)
    own = (files / "all.yaml").read_text()
    (files / "namespace.json").write_text(json.dumps(NAMESPACE))
    probes.start()
    port = 8001
    for _ in range(2):
        for name, made in WORST.items():
            (files / "worst.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": made()}))
            before, port = port, port + 1
            (files / "all.yaml").write_text(own.replace("port: 8001", f"port: {port}"))
            moved = eventually(lambda: running.pod.run(tcp, V4, before) in REFUSED, 60)  # noqa: B023  at once
            assert moved, (name, running.said()[-2000:])
            assert running.pod.run(tcp, V4, port) not in REFUSED, name
            assert running.process.poll() is None, running.said()[-2000:]
    probes.over.set()
    probes.join()
    assert peak_bytes(running.process.pid) < LIMIT * 7 // 8, "its maps are charged to the machine"
    assert probes.asked > len(WORST)
    assert (probes.failed, probes.slowest < PROBE_SECONDS) == (0, True), (probes.failed, probes.slowest)
    refused = [line for line in running.said().splitlines() if "object.refused" in line]
    for name in ("TaskNetworkPolicy/worst/big", "/worst/c", "/worst/big", "/worst/s1", "Service/worst/s"):
        assert any(name in line for line in refused), f"{name}: by name (P17)"
    assert all("/worst/" in line for line in refused)
    own_peak, charged = peak_bytes(running.process.pid) >> 20, memory.peak() >> 20
    print(f"peak {own_peak} MB, {charged} MB charged; {probes.asked} probes, slowest {probes.slowest:.2f} s")
