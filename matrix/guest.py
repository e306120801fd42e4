"""Inside a guest: kernel, bcc, programs as the kernel counts them, tests. One JSON line a fact.

Standard library and agent.kernel only, so that a root file system with nothing but Python and bcc can run it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from agent.errors import KernelError
from agent.kernel import loader, probe
from agent.kernel.loader import Request
from agent.kernel.pins import Pins, ensure_bpffs
from agent.sources.cgroups import find_cgroup2_mount


class Records:
    """Where the facts go. Every line is written at once: a panic must not take the last ones with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, kind: str, **facts: Any) -> None:
        self._stream.write(json.dumps({"kind": kind, **facts}) + "\n")
        self._stream.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one test, and for the loader")
    parser.add_argument("tests", nargs=argparse.REMAINDER, help="arguments of pytest; none: no tests")
    options = parser.parse_args()
    with options.records.open("w", encoding="utf-8") as stream:
        records = Records(stream)
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        records("boot", kernel=os.uname().release, python=platform.python_version(), seconds=uptime)
        loaded = report_programs(records, options.timeout)
        if loaded and options.tests:
            from matrix.guest_tests import run_tests  # noqa: PLC0415  pytest is not everywhere

            run_tests(records, [*options.tests, "-o", f"timeout={options.timeout}"])
        records("end")


def report_programs(records: Records, timeout_seconds: float) -> bool:
    """The agent's own probe and loader. False where the programs do not load: no test could tell more."""
    began = time.monotonic()
    try:
        found = probe.features(find_cgroup2_mount())
        records("features", **found.as_dict())
        with _pins() as pins:
            request = Request(str(pins.root), 1, found.as_dict())
            loaded = loader.load(request, timeout_seconds)
    except KernelError as exc:
        records("refused", error=str(exc))
        return False
    programs = {name: [loaded.verified[name], loaded.instructions[name]] for name in loaded.instructions}
    records("programs", bcc=loaded.bcc, programs=programs, seconds=time.monotonic() - began)
    return True


@contextlib.contextmanager
def _pins() -> Iterator[Pins]:
    """Pins of a scratch folder of bpffs; the programs go with them."""
    folder = Path("/sys/fs/bpf/matrix")
    ensure_bpffs(folder.parent)
    pins = Pins(folder)
    try:
        yield pins
    finally:
        pins.remove_all()


if __name__ == "__main__":
    main()
