"""Agent start to enforcing, and its memory, with pods and policies in a folder and their cgroups in place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.datapath import detach
from lab.node import ScratchNode, cgroup_mount

METRICS = "127.0.0.1:9992"
SETTLE_SECONDS = 8
"""Until memory is read: the first drains, the first scrapes of the state."""


@dataclass(frozen=True)
class Size:
    """A cluster: `endpoints` of its `pods` are on this node, with cgroups; policies share the prefixes."""

    endpoints: int
    pods: int
    policies: int
    prefixes: int


@dataclass(frozen=True)
class Cost:
    """Seconds from the start of the process to the last attachment; bytes some seconds later.

    The first start compiles the programs; `again_seconds` are of a second one, which finds them in its state folder.
    """

    start_seconds: float
    again_seconds: float
    resident_bytes: int


def measure(size: Size) -> Cost:
    """In a process of its own, so that memory is the agent's."""
    with ScratchNode() as node, tempfile.TemporaryDirectory() as folder:
        manifests = Path(folder) / "manifests"
        manifests.mkdir()
        document = {"kind": "List", "apiVersion": "v1", "items": list(_objects(size))}
        (manifests / "all.json").write_text(json.dumps(document), encoding="utf-8")
        for number in range(size.endpoints):
            (node.kubepods / "burstable" / f"pod{_uid(number)}" / ("c" * 64)).mkdir(parents=True)
        flags = {
            "--files": manifests, "--node": "bench", "--cgroup-root": f"/{node.kubepods.relative_to(cgroup_mount())}",
            "--pins": node.bpffs / "dagwall", "--state": Path(folder) / "state", "--socket": Path(folder) / "socket",
            "--metrics": METRICS, "--pod-cidr": "10.128.0.0/9",
        }  # fmt: skip
        command = [sys.executable, "-m", "agent", "run", *(str(part) for pair in flags.items() for part in pair)]
        try:
            with _running(command) as (_, first):
                pass
            with _running(command) as (pid, again):
                time.sleep(SETTLE_SECONDS)
                return Cost(first, again, _resident_bytes(pid))
        finally:
            detach(node.bpffs / "dagwall")


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[int, float]]:
    """An agent's process id, and how many seconds it took to be ready."""
    began = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process.pid, _await_ready(process) - began
    finally:
        process.terminate()
        process.wait(30)


def _await_ready(process: subprocess.Popen[bytes]) -> float:
    """When /readyz says so, on the monotonic clock."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{METRICS}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    return time.monotonic()
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"the agent ended with {process.returncode}")


def _resident_bytes(pid: int) -> int:
    """proc(5), statm."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _uid(number: int) -> str:
    return str(uuid.UUID(int=number + 1, version=4))


def _objects(size: Size) -> Iterator[dict[str, object]]:
    yield {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "airflow", "labels": {"dagwall.io/managed": "true"}},
    }
    for number in range(size.pods):
        yield _pod(number, here=number < size.endpoints)
    for number in range(size.policies):
        share = range(number * size.prefixes // size.policies, (number + 1) * size.prefixes // size.policies)
        yield {
            "apiVersion": "dagwall.io/v1alpha1",
            "kind": "TaskNetworkPolicy",
            "metadata": {"name": f"policy{number}", "namespace": "airflow"},
            "spec": {
                "subject": {"dagIds": [f"dag{number % 200}"]},
                "egress": [
                    {
                        "to": [{"cidr": f"20.{n >> 8 & 255}.{n & 255}.{(n >> 16) * 16}/28"} for n in share],
                        "ports": [{"port": 443}],
                    }
                ],
            },
        }


def _pod(number: int, *, here: bool) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"p{number}",
            "namespace": "airflow",
            "uid": _uid(number),
            "labels": {"kubernetes_executor": "True", "dag_id": f"dag{number % 200}", "task_id": f"task{number}"},
            "annotations": {"dag_id": f"dag{number % 200}", "task_id": f"task{number}", "run_id": f"run{number}"},
        },
        "spec": {
            "serviceAccountName": "worker",
            "nodeName": "bench" if here else f"node{number % 100}",
            "containers": [{"name": "base"}],
        },
        "status": {"podIP": f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"},
    }
