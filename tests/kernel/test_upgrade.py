"""Upgrades and deaths under load: nothing allowed fails, nothing forbidden passes, counters never go backwards.

UPGRADE_SWAPS (3) and UPGRADE_KILLS (6) say how often; `make soak` runs 100 and 200. Each start compiles, loads and
replaces every program on every hook, so that a new release is no more than this with other text.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config
from agent.kernel.pins import Pins
from tests.kernel.agent_process import START_SECONDS, AgentProcess
from tests.kernel.rig import eventually
from tests.kernel.test_agent import Machine
from tests.kernel.test_faults import Traffic, machine, managed_pod, watched  # noqa: F401  machine is a fixture

SWAPS = int(os.environ.get("UPGRADE_SWAPS", "3"))
KILLS = int(os.environ.get("UPGRADE_KILLS", "6"))
SEED = int(os.environ.get("UPGRADE_SEED", str(random.SystemRandom().randrange(1 << 32))))
ROOT = Path(__file__).parents[2]


def program_ids(config: Config) -> set[str]:
    """Programs of the newest generation, by their pins: others after each replacement."""
    return {str(number) for number in Pins(config.pins).generations()}


@pytest.mark.timeout(START_SECONDS + 60 * SWAPS)
def test_programs_are_replaced_under_load(machine: Machine) -> None:  # noqa: F811
    """4 clients make connections and send packets without pause, on two pods."""
    pods = [managed_pod(machine, name) for name in ("p", "q")]
    config, ready = machine.config(), machine.folder / "ready"
    agent = AgentProcess(config, ready)
    traffic = [Traffic(pod) for pod in pods]
    with watched(config.pins):
        assert all(each.flows() for each in traffic)
        for number in range(SWAPS):
            before = program_ids(config)
            agent.kill()
            agent = AgentProcess(config, ready)
            assert ready.read_text() == "adopted"
            assert program_ids(config).isdisjoint(before), "another generation is attached"
            assert all(each.flows() for each in traffic)
            _progress("swap", number + 1, SWAPS, traffic)
        assert agent.stop() == 0, agent.errors
    for each in traffic:
        each.end()


@contextmanager
def started(config: Config, ready: Path, release: Path = ROOT, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """An agent in a process group of its own, its loader with it; killed when the block ends."""
    process = AgentProcess.spawn(config, ready, start_new_session=True, cwd=release, **how)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(START_SECONDS + 60 * KILLS)
def test_agents_die_at_any_moment(machine: Machine) -> None:  # noqa: F811
    """With their loader: while clang works, between two pins, two links, two writes, or when all is well."""
    draw = random.Random(SEED)
    pods = [managed_pod(machine, name) for name in ("p", "q")]
    config, ready = machine.config(), machine.folder / "ready"
    began = time.monotonic()
    agent = AgentProcess(config, ready)
    takes = time.monotonic() - began
    traffic = [Traffic(pod) for pod in pods]
    assert all(each.flows() for each in traffic)
    agent.kill()
    with watched(config.pins):
        for number in range(KILLS):
            with started(config, ready):
                time.sleep(draw.uniform(0, takes * 1.3))
            for each in traffic:
                each.check()
            _progress(f"kill (seed {SEED})", number + 1, KILLS, traffic)
            if number % 10 == 9 or number + 1 == KILLS:
                agent = AgentProcess(config, ready)
                assert ready.read_text() == "adopted", f"seed {SEED}"
                assert all(each.flows() for each in traffic)
                assert len(program_ids(config)) == 1, "generations that never came to life are gone"
                assert agent.stop() == 0, agent.errors
    for each in traffic:
        each.end()


STEPS = [
    "OBJ_GET:1", "OBJ_GET:12", "OBJ_GET:25", "OBJ_GET:30", "INFO:1", "INFO:16",  # programs, tail arrays, maps, links
    "MAP_UPDATE:1", "MAP_UPDATE:2", "MAP_UPDATE:3",  # reconciling
    "LINK_UPDATE:1", "LINK_UPDATE:4", "LINK_UPDATE:7",  # replacing
]  # fmt: skip
LOADED = (1, 5, 9, 11)  # pins of a generation: programs, then tail arrays


@pytest.mark.timeout(3 * START_SECONDS)
def test_agents_die_at_each_step(machine: Machine) -> None:  # noqa: F811
    """Of a start on a node that is enforced: load, pin, open, reconcile, replace."""
    pod = managed_pod(machine)
    config, ready = machine.config(), machine.folder / "ready"
    AgentProcess(config, ready).kill()
    traffic = Traffic(pod)
    with watched(config.pins):
        for step in STEPS:
            with started(config, ready, env=os.environ | {"DIE_AT": step}) as process:
                eventually(lambda: ready.exists() or process.poll() is not None, 120)
                assert process.poll() == -signal.SIGKILL, f"{step} was not reached"
            assert traffic.flows(), step
            traffic.check()
        for pins in LOADED:
            folder = Pins(config.pins).programs(Pins(config.pins).next_generation())
            with started(config, ready) as process:
                reached = eventually(lambda: folder.is_dir() and len(list(folder.iterdir())) >= pins, 120)  # noqa: B023
                assert reached, f"pin {pins}"
            assert traffic.flows(), f"pin {pins}"
            traffic.check()
        last = AgentProcess(config, ready)
        assert ready.read_text() == "adopted"
        assert len(program_ids(config)) == 1
        assert traffic.flows()
        assert last.stop() == 0, last.errors
    traffic.end()


def _progress(what: str, number: int, of: int, traffic: list[Traffic]) -> None:
    if of < 20 or number % 10:
        return
    tried, forbidden = (sum(each.get(name) for each in traffic) for name in ("tried", "forbidden"))
    sys.stderr.write(f"\n{what} {number}/{of}: {tried} rounds of allowed, {forbidden} of forbidden, 0 wrong")
