"""What a start finds: roots that are none any more, a start before it that died, evictions that nobody told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agent.abi.structs import SLOT, U32
from agent.config import Config
from agent.kernel.pins import Pins
from agent.model.verdict import Direction
from agent.node.flow_drain import lost_evictions
from lab.node import Pod, cgroup_mount
from tests.kernel.agent_process import AgentProcess
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp, udp
from tests.kernel.test_agent import Machine
from tests.kernel.test_faults import ALLOWED, FORBIDDEN, V4, machine, managed_pod

__all__ = ["machine"]


@contextmanager
def running(config: Config, ready: Path) -> Iterator[str]:
    """An agent of its own process, killed at the end; whether it found an enforced node."""
    process = AgentProcess(config, ready)
    try:
        yield ready.read_text()
    finally:
        process.kill()


def verdicts(pod: Pod) -> tuple[bool, bool]:
    """Does what may pass, and what may not?"""
    return pod.run(tcp, V4, ALLOWED) == "ok", pod.run(tcp, V4, FORBIDDEN) == "ok"


def test_a_root_that_is_none_any_more_is_let_go(machine: Machine) -> None:
    """Its old programs would outlive their generation, and deny all that is off their fast path."""
    pod, ready = managed_pod(machine), machine.folder / "ready"
    elsewhere = machine.node.root / "elsewhere"
    elsewhere.mkdir()
    config = machine.config()
    other = replace(config, cgroup_roots=frozenset({f"/{elsewhere.relative_to(cgroup_mount())}"}))
    with running(config, ready):
        assert verdicts(pod) == (True, False)
    with running(other, ready) as found:
        assert found == "adopted"
        assert Pins(config.pins).linked_roots() == {elsewhere.stat().st_ino}
        assert verdicts(pod) == (True, True)
    with running(config, ready):
        assert Pins(config.pins).linked_roots() == {machine.node.kubepods.stat().st_ino}
        assert verdicts(pod) == (True, False)
    elsewhere.rmdir()


def test_without_a_root_nothing_is_let_go(machine: Machine) -> None:
    """The kubelet may not have made its tree yet."""
    pod, ready = managed_pod(machine), machine.folder / "ready"
    config = machine.config()
    with running(config, ready):
        assert verdicts(pod) == (True, False)
    with running(replace(config, cgroup_roots=frozenset({"/none-of-them"})), ready):
        assert verdicts(pod) == (True, False)
    assert verdicts(pod) == (True, False)


def test_a_first_start_that_died_before_it_enforced_is_none(machine: Machine) -> None:
    """L5: the next one is the node's first, and lets pass what runs already: maps alone enforce nothing."""
    config, ready = machine.config(), machine.folder / "ready"
    dying = AgentProcess.spawn(config, ready, env=os.environ | {"DIE_AT": "OBJ_PIN:1"})
    assert dying.wait(300) == -signal.SIGKILL
    assert (Pins(config.pins).maps / "endpoints").exists()
    with running(config, ready) as found:
        assert found == "fresh"
    with running(config, ready) as found:
        assert found == "adopted"


def test_flows_that_went_unseen_do_not_use_up_the_share(machine: Machine) -> None:
    """As when an agent dies between taking them out and telling the kernel."""
    pod = managed_pod(machine)
    with machine.agent() as agent:
        assert pod.run(udp, V4, ALLOWED) == "ok"
        maps = agent.datapath.maps
        assert lost_evictions(maps) == {}
        for key in list(maps["flows"].keys()):
            maps["flows"].delete(key)
        (slot,) = (int(U32.unpack(k)["value"]) for k, v in maps["slots"].items() if any(SLOT.unpack(v)["inserted"]))
        assert eventually(lambda: lost_evictions(maps)[slot, Direction.EGRESS] >= 1)
    with machine.agent() as agent:
        assert lost_evictions(agent.datapath.maps) == {}
