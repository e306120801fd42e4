"""One guest from boot to result."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from matrix import report
from matrix.debian import Kernel, MatrixError
from matrix.progress import Progress
from matrix.report import Result
from matrix.tools import Tools
from matrix.vm import Guest, Machine, project_folder

_LAST_LINES = 50


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel, the root file system that it gets, and what runs in it."""

    name: str
    kernel: Kernel
    tests: tuple[str, ...]
    """Arguments of pytest; empty: the programs only."""
    count: int | None
    """Tests that must run; None: some."""
    root: Path = Path("/")
    python: str = sys.executable
    refused: str = ""
    """What the loader must say; empty: it must work."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a guest may take."""

    seconds: float
    boot_seconds: float
    memory_mib: int
    share_kind: str


def run_job(job: Job, tools: Tools, limits: Limits, folder: Path, progress: Progress) -> Result:
    """Never raises for what happens in the guest: a hang, a panic, a QEMU that does not start are results."""
    result = Result(job.name, job.count, job.refused)
    project = project_folder()
    variables = {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    command = (
        "/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()),
        job.python, "-m", "matrix.guest", "--records", "/dev/ttyS2", *job.tests,
    )  # fmt: skip
    guest = Guest(
        job.kernel, command, project, folder, root=job.root, share_kind=limits.share_kind,
        shares={} if job.root == Path("/") else {project: project}, memory_mib=limits.memory_mib,
    )  # fmt: skip
    machine = Machine(guest, tools)
    began = time.monotonic()
    progress.step(job.name, "booting")
    try:
        for record in machine.records(limits.seconds, limits.boot_seconds):
            result.take(record)
            progress.record(result, record["kind"])
    except (TimeoutError, MatrixError) as exc:
        result.problem = str(exc)
    result.seconds = time.monotonic() - began
    if not result.ended:
        result.problem = result.problem or report.panic(machine.console)
    verdict = result.verdict()
    progress.step(job.name, f"{verdict}, {result.seconds:.0f} s")
    if verdict != "ok":
        _explain(job.name, machine, result, progress)
    return result


def _explain(name: str, machine: Machine, result: Result, progress: Progress) -> None:
    """Everything that a person needs to find out why, since the guest is gone."""
    for failure in result.failures:
        progress.say(f"[{name}] {failure.test} failed:\n{failure.text}")
    for text in filter(None, (result.problem, result.refusal)):
        progress.say(f"[{name}] {text}")
    if not result.ended or not result.done:
        for what, text in (("console", machine.console), ("output", machine.output), ("QEMU's own", machine.said)):
            lines = text.strip().splitlines()[-_LAST_LINES:] or ["(nothing)"]
            progress.say("\n".join([f"[{name}] last lines, {what}:", *lines]))
