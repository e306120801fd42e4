"""Entering a pod's namespace: what fails inside ends the sweep, not the thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.app.connections import Connections


def test_what_is_gone_inside_a_namespace_is_an_error_of_the_caller(tmp_path: Path) -> None:
    """A FileNotFoundError of the body is not taken for a process that has gone."""
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    connections = Connections({}, lambda _: [tmp_path])
    with pytest.raises(FileNotFoundError), connections._namespace(1):
        raise FileNotFoundError


def test_folders_that_have_gone_are_nobody_s(tmp_path: Path) -> None:
    connections = Connections({}, lambda _: [tmp_path / "gone", tmp_path])
    assert connections._own(7, [], on_host=True) == []
    assert list(connections._processes(7)) == []
