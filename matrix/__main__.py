"""`make matrix`: the kernel tests in other kernels, and one table of what came out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from matrix import bcc, debian, report
from matrix.debian import Kernel, MatrixError
from matrix.progress import Progress
from matrix.report import Result, Table
from matrix.run import Job, Limits, run_job
from matrix.tools import find_tools
from matrix.vm import can_run, project_folder

_SECONDS = {"none": 900, "core": 3000, "all": 7200}
_WIDTH = 118


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    kernels: tuple[str, ...]
    of_bcc: bool
    suite: str
    modules: Path | None
    tests: str | None
    select: str
    jobs: int
    timeout: float | None
    boot_timeout: float
    memory: int
    share: str
    update: bool
    docs: bool
    output: str


@click.command()
@click.argument("kernels", nargs=-1)
@click.option("--bcc", "of_bcc", is_flag=True, help="Load the programs with each release's bcc.")
@click.option("--suite", default="", help="Of these, those with the bcc of one suite of Debian.")
@click.option(
    "--modules", type=click.Path(path_type=Path), help="/lib/modules/RELEASE of a kernel given by its path."
)
@click.option("--tests", type=click.Choice([*_SECONDS]), help="Default: all with KVM, core without.")
@click.option("--select", default="", help="Of these tests, those that pytest -k selects.")
@click.option("--jobs", default=2, show_default=True, help="Guests side by side.")
@click.option("--timeout", type=float, help="Seconds a guest may take. Default: 3000 for core, 7200 for all.")
@click.option("--boot-timeout", type=float, default=180, show_default=True, help="Seconds until its first word.")
@click.option("--memory", default=2048, show_default=True, help="MiB a guest.")
@click.option("--share", type=click.Choice(["virtiofs", "9p"]), default="virtiofs", show_default=True)
@click.option("--update", is_flag=True, help="Fetch Debian's packages anew.")
@click.option("--docs", is_flag=True, help="Write the table into docs/kernels.md.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def main(**given: Any) -> None:
    """Run the kernel tests in KERNELS: 5.10, 6.1, 6.12, sid (the default: all of them), or the path of a vmlinuz."""
    options = Options(**given)
    progress = Progress(Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH))
    try:
        results = _run(options, progress)
    except MatrixError as exc:
        raise click.ClickException(str(exc)) from exc
    rows = bcc.table(results) if options.of_bcc else report.table(results)
    _show(results, rows, options.output)
    if options.docs:
        _write_docs("bcc" if options.of_bcc else "kernels", rows)
    sys.exit(0 if all(result.verdict() == "ok" for result in results) else 1)


def _run(options: Options, progress: Progress) -> list[Result]:
    """Every guest's result, in the order asked for. Raises MatrixError before the first one boots, or not at all."""
    if problem := can_run():
        raise MatrixError(problem)
    tools = find_tools(progress.say)
    which = "none" if options.of_bcc else options.tests or ("all" if tools.kvm else "core")
    limits = Limits(options.timeout or _SECONDS[which], options.boot_timeout, options.memory, options.share)
    if options.of_bcc:
        queue = bcc.jobs(options.suite, progress.say, update=options.update)
    else:
        names = options.kernels or tuple(debian.KERNEL_SUITES)
        queue = _jobs([_kernel(name, options, progress) for name in names], which, options.select)
    with tempfile.TemporaryDirectory(prefix="dagwall-matrix-") as scratch, progress:
        run = partial(run_job, tools=tools, limits=limits, progress=progress)
        folders = [Path(scratch) / str(number) for number in range(len(queue))]
        with ThreadPoolExecutor(max_workers=options.jobs) as pool:
            return list(pool.map(lambda job, folder: run(job, folder=folder), queue, folders))


def _kernel(name: str, options: Options, progress: Progress) -> Kernel:
    if "/" in name:
        return debian.given_kernel(Path(name), options.modules)
    return debian.fetch_kernel(name, progress.say, update=options.update)


def _jobs(kernels: list[Kernel], which: str, expression: str) -> list[Job]:
    """The same tests for each, found here once: what a guest does not run is then missed."""
    if which == "none":
        return [Job(kernel.name, kernel, (), 0) for kernel in kernels]
    select = (*(("-m", "core") if which == "core" else ()), *(("-k", expression) if expression else ()))
    folder = project_folder() / "tests/kernel"
    said = _checked([sys.executable, "-m", "pytest", "--collect-only", "-q", *select, str(folder)])
    tests = [line for line in said.splitlines() if re.match(r"\S+\.py::", line)]
    files = sorted({str(project_folder() / test.split("::")[0]) for test in tests})
    if not tests:
        raise MatrixError("pytest finds no kernel tests")
    return [Job(kernel.name, kernel, (*files, *select), len(tests)) for kernel in kernels]


def _checked(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project_folder())
    if done.returncode:
        raise MatrixError(f"{' '.join(command[:4])} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def _show(results: list[Result], rows: Table, output: str) -> None:
    if output == "json":
        click.echo(json.dumps([result.as_dict() for result in results], indent=2))
        return
    click.echo(report.text(rows))
    for result in results:
        if (verdict := result.verdict()) != "ok":
            click.echo(f"{result.name}: {verdict}")


def _write_docs(name: str, rows: Table) -> None:
    path = project_folder() / "docs/kernels.md"
    path.write_text(report.spliced(path.read_text(encoding="utf-8"), name, report.markdown(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
