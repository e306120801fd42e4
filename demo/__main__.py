"""The show: start the agent, run three task pods, print what they saw, what dagwall saw, and clean up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from agent.kernel.datapath import detach
from demo import servers, tasks
from lab.node import PROGRAM_CACHE, Pod, ScratchNode, cgroup_mount

HERE = Path(__file__).parent
MANIFESTS = HERE.parent / "tests" / "data" / "airflow"
TASKS = ("3.3.2-ke-normal", "2.11.2-ke-mapped", "3.3.2-kpo-plain")
METRICS = "127.0.0.1:9991"


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("the demo loads programs into the kernel and makes cgroups and network namespaces: run it as root")
    console = Console(width=110)
    folder = Path(tempfile.mkdtemp(prefix="dagwall-demo-"))
    with ScratchNode() as node:
        try:
            _show(console, node, folder)
        finally:
            left = detach(node.bpffs / "dagwall")
            shutil.rmtree(folder)
            console.print(f"\n[dim]cleaned up: {left} hooks detached, cgroups and network namespaces removed[/dim]")


def _show(console: Console, node: ScratchNode, folder: Path) -> None:
    servers.start(node)
    manifests = folder / "manifests"
    shutil.copytree(HERE / "policies", manifests)
    shutil.copy(HERE / "cluster.yaml", manifests)
    pods = dict(_admit(node, manifests, name) for name in TASKS)
    console.print(
        f"[bold]A scratch node[/bold]: {len(pods)} pods from real Airflow manifests, 3 policies, 7 servers."
    )
    began = time.monotonic()
    with _agent(node, folder, manifests):
        console.print(f"Agent enforcing after {time.monotonic() - began:.1f} s. What the tasks' own code sees:\n")
        _run_tasks(console, pods)
        time.sleep(1.2)  # two drains of the kernel's counters
        for arguments in (["flows"], ["why", "--dag", "simple_etl", "--task", "extract"], ["endpoints"]):
            _cli(console, folder, arguments)
        _metrics(console)


def _admit(node: ScratchNode, manifests: Path, name: str) -> tuple[str, Pod]:
    """Make the pod's folder and namespace, and give its recorded manifest what a server and a kubelet add."""
    pod = node.add_pod(str(uuid.uuid4()))
    document = json.loads((MANIFESTS / f"pods-{name}.json").read_text(encoding="utf-8"))
    document["metadata"]["uid"] = pod.uid
    document["spec"]["nodeName"] = "demo"
    document["status"] = {"phase": "Running", "podIPs": [{"ip": pod.ipv4}, {"ip": pod.ipv6}]}
    (manifests / f"pod-{name}.json").write_text(json.dumps(document), encoding="utf-8")
    labels = document["metadata"]["labels"]
    return f"{labels['dag_id']}/{labels['task_id']}", pod


@contextmanager
def _agent(node: ScratchNode, folder: Path, manifests: Path) -> Iterator[None]:
    """`dagwall run` as a process of its own, until it is ready."""
    flags = {
        "--files": manifests, "--node": "demo", "--cgroup-root": f"/{node.kubepods.relative_to(cgroup_mount())}",
        "--pins": node.bpffs / "dagwall", "--state": folder / "state", "--socket": folder / "socket",
        "--flow-log": folder / "flows.json", "--metrics": METRICS, "--drain-interval": 0.5,
        "--pod-cidr": "10.77.0.0/16", "--service-cidr": "10.96.0.0/12", "--event-rate": 100, "--event-burst": 100,
        "--program-cache": PROGRAM_CACHE,
    }  # fmt: skip
    command = [sys.executable, "-m", "agent", "run", *(str(part) for pair in flags.items() for part in pair)]
    log = folder / "agent.log"
    with open(log, "w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stderr=errors)
    try:
        _await_ready(process, log)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180  # on a busy machine clang alone takes a minute
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{METRICS}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"the agent did not become ready:\n{log.read_text(encoding='utf-8')}")


def _run_tasks(console: Console, pods: dict[str, Pod]) -> None:
    """Every attempt by every task, as it happens."""
    table = Table("attempt", *pods, width=110)
    with Live(table, console=console, refresh_per_second=20):
        for what, attempt, arguments in tasks.ATTEMPTS:
            table.add_row(what, *(_coloured(pod.run(attempt, *arguments)) for pod in pods.values()))


def _coloured(outcome: str) -> str:
    return f"[red]{outcome}[/red]" if outcome in ("EACCES", "EPERM", "ECONNABORTED") else f"[green]{outcome}[/green]"


def _cli(console: Console, folder: Path, arguments: list[str]) -> None:
    console.print(f"\n[bold]$ dagwall {' '.join(arguments)}[/bold]")
    command = [sys.executable, "-m", "agent", *arguments, "--socket", str(folder / "socket")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ, COLUMNS="110"))
    console.out((done.stdout + done.stderr).rstrip(), highlight=False)


def _metrics(console: Console) -> None:
    console.print(f"\n[bold]$ curl -s {METRICS}/metrics | grep dagwall_task_denied[/bold]")
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    shown = sorted(line for line in lines if line.startswith("dagwall_task_denied_total"))
    console.out("\n".join(shown), highlight=False)


if __name__ == "__main__":
    main()
