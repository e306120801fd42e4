"""Commands as processes: output that cannot be written, and who may run what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DAGWALL = [sys.executable, "-m", "agent"]
NOT_ROOT = 65534


def dagwall(*words: str, shell: str = "", user: int | None = None) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *DAGWALL, *words]
    user = user if os.geteuid() == 0 else None
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60, user=user)


@pytest.mark.parametrize(
    ("shell", "said"),
    [("> /dev/full", "standard output: No space left on device"), (">&-", "standard output is closed")],
)
@pytest.mark.parametrize("words", [("version",), ("--version",), ("--help",), ("policy", "check", "demo/policies")])
def test_output_that_cannot_be_written_is_one_line(words: tuple[str, ...], shell: str, said: str) -> None:
    done = dagwall(*words, shell=shell)
    assert (done.returncode, done.stderr) == (1, f"Error: {said}\n")


def test_who_reads_may_go() -> None:
    done = dagwall("policy", "check", "demo/policies", shell="| true")
    assert "Traceback" not in done.stderr


def test_only_root_runs_the_agent(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = dagwall("run", "--files", "demo/policies", "--socket", str(tmp_path / "none"), user=NOT_ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: dagwall run: must be run as root: ")
    assert len(done.stderr.splitlines()) == 1


def test_make_run_asks_for_the_folder() -> None:
    """-o: nothing is set up for it."""
    environment = {name: value for name, value in os.environ.items() if name != "FILES" and "MAKE" not in name}
    done = subprocess.run(
        ["make", "-o", ".venv/.ready", "run"], cwd=Path(__file__).parents[2], env=environment, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("make run: FILES is missing: ")
