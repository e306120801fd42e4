"""The DaemonSet's capabilities on this kernel: together enough to enforce and to end sockets, and each one needed."""

from __future__ import annotations

import pickle
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from agent.config import Config
from agent.kernel.datapath import detach
from lab.node import ScratchNode
from tests.kernel.agent_process import START_SECONDS
from tests.kernel.rig import eventually
from tests.releases import is_needed

pytestmark = [pytest.mark.core, pytest.mark.timeout(2 * START_SECONDS)]

ROOT = Path(__file__).parents[2]
SO_COOKIE = 57

END = """
import sys
from agent.kernel.namespaces import Namespaces
pid, cookie = map(int, sys.argv[1:])
namespaces = Namespaces()
assert not list(namespaces.look([pid]))
sockets = namespaces.found[0].sockets()
assert sum(sockets.end(e for e in part if e.cookie == cookie) for part in sockets.connections()) == 1
"""


def daemonset_capabilities() -> tuple[str, ...]:
    documents = yaml.safe_load_all((ROOT / "deploy/base/daemonset.yaml").read_text())
    (daemonset,) = (obj for obj in documents if obj and obj["kind"] == "DaemonSet")
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    return tuple(container["securityContext"]["capabilities"]["add"])


CAPABILITIES = daemonset_capabilities()


def confined(capabilities: tuple[str, ...], *command: str) -> list[str]:
    """A command as a container has it: root with these capabilities, and 64 KiB of locked memory."""
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    limits = ["prlimit", "--memlock=65536:65536"]
    return [*limits, "setpriv", f"--bounding-set={bounding}", "--inh-caps=-all", "--no-new-privs", *command]


@dataclass(frozen=True)
class Talking:
    """A scratch node with one pod, whose process has more capabilities than the agent, and a connection."""

    node: ScratchNode
    pid: int
    cookie: int


@pytest.fixture
def talking(tmp_path: Path) -> Iterator[Talking]:
    with ScratchNode() as node:
        told = tmp_path / "cookie"
        pid = node.add_pod().spawn(connected, told)
        assert eventually(told.exists)
        yield Talking(node, pid, int.from_bytes(told.read_bytes(), sys.byteorder))
        detach(node.bpffs / "dagwall")


def connected(told: Path) -> None:
    """In a pod: one TCP connection to itself; its cookie is told."""
    listening = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listening.getsockname()) as mine:
        told.with_suffix(".new").write_bytes(mine.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
        told.with_suffix(".new").rename(told)
        time.sleep(600)


def enforces(node: ScratchNode, folder: Path, capabilities: tuple[str, ...]) -> str:
    """Start an agent; "" once it enforces, else its last words."""
    manifests, state, ready = folder / "manifests", folder / "state", folder / "ready"
    manifests.mkdir()
    root = f"/{node.kubepods.relative_to(node.root.parent)}"
    config = Config(
        node="n", files=manifests, cgroup_roots=frozenset({root}), pins=node.bpffs / "dagwall", state=state,
        socket=folder / "socket", metrics="", log_folders=folder,
    )  # fmt: skip
    argument = pickle.dumps((config, str(ready))).hex()
    command = confined(capabilities, sys.executable, "-m", "tests.kernel.agent_process", argument)
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        _, said = process.communicate()
    return "" if ready.exists() else said[-2000:] or "it said nothing"


def ends_sockets(pod: Talking, capabilities: tuple[str, ...]) -> str:
    """End the pod's connection; why not."""
    command = confined(capabilities, sys.executable, "-c", END, str(pod.pid), str(pod.cookie))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr[-500:]


def test_all_together_are_enough(talking: Talking, tmp_path: Path) -> None:
    assert enforces(talking.node, tmp_path, CAPABILITIES) == ""
    assert ends_sockets(talking, CAPABILITIES) == ""


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_without_one_it_fails_where_the_kernel_asks_for_it(talking: Talking, tmp_path: Path, capability: str) -> None:
    others = tuple(name for name in CAPABILITIES if name != capability)
    why = enforces(talking.node, tmp_path, others) or ends_sockets(talking, others)
    print(why)
    assert bool(why) == is_needed(capability, platform.release()), why or f"everything works without {capability}"
