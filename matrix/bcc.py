"""Each release's bcc, on that release's own files: does the loader work with it? The image's in old kernels too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matrix.debian import Say, fetch_kernel, root_file_system
from matrix.report import NOTHING, Result, Table
from matrix.run import Job


@dataclass(frozen=True, slots=True)
class Release:
    """One that is run. `extra`: a further suite, whose packages are asked for by name."""

    name: str
    suite: str
    kernel: str
    packages: str = "python3,python3-bpfcc"
    extra: str = ""
    refused: str = ""
    """What the loader must say where it cannot work; empty: it must work."""


IMAGE = "trixie"
"""What the Dockerfile begins with: its compiler writes the programs that a cluster's nodes load, old kernels' too."""
RELEASES = (
    Release(
        "Debian 11's bcc, on Debian 12", "bookworm", "5.10", "python3,python3-bpfcc/bullseye,libbpfcc/bullseye",
        extra="bullseye", refused="bcc 0.18.0 is too old: its load_func() takes no attach_type",
    ),
    Release("Debian 12", "bookworm", "6.1"),
    *(Release("Debian 13, as in the image", IMAGE, kernel) for kernel in ("5.10", "6.1", "6.12")),
    Release("Debian sid", "sid", "sid"),
)  # fmt: skip

NOT_RUN = (
    ("Debian 11", "3.9", "0.18.0", "no: dagwall needs Python 3.10, and this bcc is too old as well"),
    ("Ubuntu 22.04", "3.10", "0.18.0", "not run; must be refused, as Debian 11's is"),
    ("Ubuntu 24.04", "3.12", "0.29.1", "not run"),
    ("Ubuntu 25.10", "3.13", "0.31.0", "not run"),
    ("Ubuntu 26.04", "3.14", "0.35.0", "not run"),
)
"""Name, Python, bcc, remark."""


def jobs(suite: str, say: Say, *, update: bool) -> list[Job]:
    """A guest for each release, or for those of one suite: its files, a kernel, its Python; the programs only."""
    return [
        Job(
            f"{release.name} on {release.kernel}", fetch_kernel(release.kernel, say, update=update), (), 0,
            root=_root(release, say, update=update), python="/usr/bin/python3", refused=release.refused,
        )
        for release in RELEASES
        if suite in ("", release.suite)
    ]  # fmt: skip


def _root(release: Release, say: Say, *, update: bool) -> Path:
    name = f"bcc-{release.suite}" + (f"-{release.extra}" if release.extra else "")
    return root_file_system(
        release.suite, name, release.packages, say, variant="minbase", extra=release.extra, update=update
    )


def table(results: Sequence[Result]) -> Table:
    """One row a release."""
    rows = [["release", "Python", "bcc", "kernel", "instructions", "the loader"]]
    for result in results:
        walked = sum(verified for verified, _ in result.programs.values())
        translated = sum(count for _, count in result.programs.values())
        counts = f"{walked}/{translated}" if walked else str(translated)
        rows.append([
            result.name, result.python or NOTHING, result.bcc or _version(result.refusal), result.kernel or NOTHING,
            counts if result.programs else NOTHING, _said(result),
        ])  # fmt: skip
    return [*rows, *([name, python, bcc, NOTHING, NOTHING, remark] for name, python, bcc, remark in NOT_RUN)]


def _version(refusal: str) -> str:
    """The bcc that a refusal names."""
    found = re.match(r"bcc ([0-9.]+) ", refusal)
    return found.group(1) if found else NOTHING


def _said(result: Result) -> str:
    if result.verdict() != "ok":
        return f"FAILED: {result.verdict()}"
    return f"refuses: {result.refusal}" if result.refusal else f"works: {len(result.programs)} programs"
