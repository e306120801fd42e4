"""Whose processes and namespaces are looked into, and what of it that has gone."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from agent.app.connections import Connections
from agent.kernel.namespaces import Namespaces, own_inode

NOBODY = 2**22 + 1  # above the kernel's greatest process id


def test_folders_that_have_gone_are_nobody_s(tmp_path: Path) -> None:
    connections = Connections({}, lambda _: [tmp_path / "gone", tmp_path])
    assert connections._folder_ids(7) == {7, tmp_path.stat().st_ino}
    assert list(connections._processes(7)) == []


def test_processes_of_folders_below_are_found_too(tmp_path: Path) -> None:
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    (inner / "cgroup.procs").write_text("17\n18\n")
    (tmp_path / "cgroup.procs").write_text("16\n")
    assert list(Connections({}, lambda _: [tmp_path])._processes(7)) == [16, 17, 18]


def test_a_namespace_is_kept_once_and_who_has_gone_has_none() -> None:
    with closing(Namespaces()) as namespaces:
        assert list(namespaces.look([NOBODY, os.getpid(), os.getppid(), os.getpid()])) == []
        assert [each.inode for each in namespaces.found] == [own_inode()]


def test_many_processes_are_looked_at_in_parts() -> None:
    with closing(Namespaces()) as namespaces:
        assert len(list(namespaces.look([NOBODY] * 1000))) == 3
