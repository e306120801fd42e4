"""`dagwall detach` and the start after it: what is left, and what is said."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.app.agent import Agent, build
from agent.cli import main
from agent.config import Config
from agent.kernel.datapath import detach
from agent.kernel.pins import ensure_bpffs, is_bpffs, leave_bpffs
from agent.model.cluster import Settings
from agent.outputs.notices import notices
from agent.outputs.output import Output
from tests.kernel.rig import eventually
from tests.kernel.test_agent import Collected, Machine, machine  # noqa: F401  machine is a fixture


@contextmanager
def running(config: Config, *outputs: Output) -> Iterator[Agent]:
    agent = build(config, Settings(baseline=()), outputs)
    thread = threading.Thread(target=agent.run)
    thread.start()
    try:
        yield agent
    finally:
        agent.stop()
        thread.join()


def say_detach(config: Config, folder: Path) -> str:
    words = ["--pins", config.pins, "--state", config.state, "--socket", folder / "none", "--yes"]
    result = CliRunner().invoke(main, ["detach", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def test_pins_that_went_by_somebody_s_word_are_no_surprise(machine: Machine, tmp_path: Path) -> None:  # noqa: F811
    config = machine.config()
    with running(config):
        pass
    assert "DETACHED" in say_detach(config, tmp_path)
    collected = Collected()
    with running(config, collected):
        assert not collected.newest.facts.pins_were_gone
        assert not any("pins were gone" in each for each in notices(collected.newest))
    detach(config.pins)  # as if somebody else had removed them
    assert "nothing of dagwall was attached" in say_detach(config, tmp_path)
    with running(config, collected):
        assert collected.newest.facts.pins_were_gone


def test_detach_makes_no_state_folder(machine: Machine, tmp_path: Path) -> None:  # noqa: F811
    config = machine.config()
    with running(config):
        pass
    say_detach(replace(config, state=tmp_path / "other"), tmp_path)
    assert not (tmp_path / "other").exists()


def test_a_bpffs_that_an_agent_has_mounted_goes_with_its_last_pins(machine: Machine, tmp_path: Path) -> None:  # noqa: F811
    config = replace(machine.config(), pins=tmp_path / "bpf" / "dagwall")
    with running(config):
        assert is_bpffs(tmp_path / "bpf")
    (tmp_path / "bpf" / "other").mkdir()  # another program's
    say_detach(config, tmp_path)
    assert is_bpffs(tmp_path / "bpf"), "others have pins there"
    (tmp_path / "bpf" / "other").rmdir()
    say_detach(config, tmp_path)
    assert not is_bpffs(tmp_path / "bpf")


def test_a_bpffs_of_others_stays(machine: Machine) -> None:  # noqa: F811
    assert not leave_bpffs(machine.node.bpffs)
    assert is_bpffs(machine.node.bpffs)
    ensure_bpffs(machine.node.bpffs)
    assert not leave_bpffs(machine.node.bpffs)


def enforcing(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.getMessage() == "agent.enforcing" for record in caplog.records)


def test_an_agent_that_is_attached_nowhere_enforces_nothing(
    machine: Machine,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its log says so when the first root is there."""
    caplog.set_level(logging.INFO, "dagwall")
    (root,) = machine.config().cgroup_roots
    later = machine.node.kubepods.with_name(f"{machine.node.kubepods.name}-later")
    config = replace(machine.config(), cgroup_roots=frozenset({f"{root}-later"}))
    try:
        with running(config):
            assert enforcing(caplog) == 0
            later.mkdir()
            assert eventually(lambda: enforcing(caplog) == 1, 5)
        with running(config):
            assert enforcing(caplog) == 2
    finally:
        later.rmdir()
