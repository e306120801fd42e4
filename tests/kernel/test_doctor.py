"""`dagwall doctor` on a real kernel: what it finds is true, and it leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.doctor.look import _exclusive, look
from agent.kernel import syscall
from agent.kernel.instructions import EXIT, set_register
from agent.kernel.probe import features
from agent.kernel.syscall import AttachType, ProgType
from lab.node import ScratchNode, cgroup_mount
from tests.kernel.test_capabilities import confined

DOCTOR = [sys.executable, "-m", "agent", "doctor", "-o", "json"]
_OURS = ("/var/lib", "/run", "/var/log", "/tmp")
_TREES = (*_OURS, "/etc", "/sys/fs/bpf")
_ALONE = f"""
set -eu
mount --make-rprivate /
mount -t bpf bpf /sys/fs/bpf
for tree in {" ".join(_OURS)}; do mount -t tmpfs tmpfs "$tree"; done
seen() {{ find {" ".join(_TREES)} -xdev -printf '%p %T@ %s\\n' | sort; cat /proc/self/mounts; }}
seen >"$1/before" && "${{@:2}}" >"$1/said" || echo $? >"$1/code"
seen >"$1/after"
"""


def test_it_changes_nothing(tmp_path: Path) -> None:
    """In mounts of its own: no file, no mount, no pin. Links and programs go with the last pin and the process."""
    out = Path(os.getcwd()) / "build" / tmp_path.name  # /tmp is hidden there
    out.mkdir(parents=True)
    try:
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        command = ["unshare", "--mount", "bash", "-c", _ALONE, "-", str(out), *DOCTOR]
        subprocess.run(command, check=True, timeout=100, env=environment)
        assert any(
            row["what"] == "bpf" and row["found"] == "programs load" for row in json.loads((out / "said").read_text())
        )
        assert (out / "after").read_text() == (out / "before").read_text()
        assert len((out / "before").read_text().splitlines()) > 20
    finally:
        for file in out.iterdir():
            file.unlink()
        out.rmdir()


def test_it_keeps_no_descriptor(tmp_path: Path) -> None:
    """A link that is not pinned lives as long as a descriptor of it."""
    look(tmp_path, tmp_path / "pins", tmp_path / "socket")  # what is opened once, such as libraries
    before = set(os.listdir("/proc/self/fd"))
    look(tmp_path, tmp_path / "pins", tmp_path / "socket")
    assert set(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_what_it_finds_is_what_the_agent_would(tmp_path: Path) -> None:
    found = look(tmp_path, tmp_path / "pins", tmp_path / "socket")
    assert found.features == features(cgroup_mount()).as_dict()
    assert (found.programs, found.libraries, found.root) == ("", "", True)
    assert found.cgroup_mount == str(cgroup_mount())


def test_without_capabilities_it_says_so() -> None:
    done = subprocess.run(confined(("NET_ADMIN",), *DOCTOR), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    rows = {row["what"]: row for row in json.loads(done.stdout) if row["level"] == "fails"}
    assert "without SYS_ADMIN, SYS_PTRACE" in rows["rights"]["found"]
    assert "may not load BPF programs" in rows["bpf"]["found"]


def test_who_is_not_root_is_told_so() -> None:
    done = subprocess.run(DOCTOR, capture_output=True, text=True, check=False, timeout=60, user=65534)
    assert (done.returncode, done.stderr) == (1, "")
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert (rows["rights"]["level"], rows["rights"]["do"]) == ("fails", "run this as root")
    assert rows["kernel"]["level"] == "ok"


@pytest.mark.parametrize("flags", [0, 1, 2])
def test_a_program_that_lets_nobody_attach_below(flags: int) -> None:
    with ScratchNode() as node:
        top = next(folder for folder in cgroup_mount().iterdir() if folder.name == f"dagwall-{node.name}")
        program = syscall.load_program(ProgType.CGROUP_SOCK_ADDR, AttachType.CONNECT4, set_register(0, 1) + EXIT)
        folder = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            syscall.prog_attach(folder, program, AttachType.CONNECT4, flags)
            number = syscall.prog_info(program).id
            expected = [f"connect4 of {top}: program {number}"] if flags == 0 else []
            assert list(_exclusive(top)) == expected
            below = next(child for child in top.iterdir() if child.is_dir())
            fd = os.open(below, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if flags == 0:
                    with pytest.raises(OSError, match="not permitted"):
                        os.close(syscall.link_create(program, fd, AttachType.CONNECT4))
                else:
                    os.close(syscall.link_create(program, fd, AttachType.CONNECT4))
            finally:
                os.close(fd)
            syscall.prog_detach(folder, program, AttachType.CONNECT4)
        finally:
            os.close(folder)
            os.close(program)
