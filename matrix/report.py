"""Records of guests to results, and results to tables. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed, and the end of what pytest says about it."""

    test: str
    text: str


@dataclass
class Result:
    """What is known of one guest; grows with its records. `expected`: tests that must run (None: some)."""

    name: str
    expected: int | None = None
    must_refuse: str = ""
    refusal: str = ""
    """What the loader must say, and what it said; empty: it must work, and it did."""
    kernel: str = ""
    python: str = ""
    bcc: str = ""
    boot_seconds: float = 0.0
    seconds: float = 0.0
    features: dict[str, bool] = field(default_factory=dict)
    programs: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Instructions by program: as the verifier walked them (0: the kernel does not tell), and as translated."""
    collected: int = 0
    passed: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    pytest_code: int | None = None
    running: str = ""
    """The test that began last."""
    ended: bool = False
    problem: str = ""
    """Why the guest as a whole failed; empty where it came to its end."""

    def take(self, record: Mapping[str, Any]) -> None:
        """One record of the guest."""
        match record.get("kind"):
            case "boot":
                self.kernel, self.python = record["kernel"], record["python"]
                self.boot_seconds = record["seconds"]
            case "features":
                self.features = {name: bool(there) for name, there in record.items() if name != "kind"}
            case "programs":
                self.bcc = record["bcc"]
                self.programs = {name: (counts[0], counts[1]) for name, counts in record["programs"].items()}
            case "refused":
                self.refusal = record["error"]
            case "collected":
                self.collected = record["tests"]
            case "start":
                self.running = record["name"]
            case "test":
                self._take_test(record)
            case "pytest":
                self.pytest_code = record["code"]
            case "end":
                self.ended = True

    def _take_test(self, record: Mapping[str, Any]) -> None:
        if record["outcome"] == "failed":
            self.failures.append(Failure(record["name"], record["text"]))
        elif record["outcome"] == "skipped":
            self.skipped += 1
        else:
            self.passed += 1

    @property
    def failed(self) -> int:
        return len({failure.test for failure in self.failures})

    @property
    def done(self) -> int:
        """Tests that have an outcome."""
        return self.passed + self.skipped + self.failed

    def verdict(self) -> str:
        """`ok`, or why not. Whatever is not known to be good is bad: no end, no programs, no tests, too few tests."""
        if self.problem:
            return self.problem.splitlines()[0] + self._where()
        if not self.ended:
            return f"the guest ended early{self._where()}" if self.kernel else "the guest did not boot"
        if self.must_refuse:
            return "ok" if self.must_refuse in self.refusal else f"not refused with: {self.must_refuse}"
        if self.refusal:
            return self.refusal.splitlines()[0]
        if not self.programs:
            return "no programs were loaded"
        if self.expected == 0:
            return "ok"
        if self.failed:
            return f"{self.failed} failed"
        if not self.passed:
            return "no test ran"
        if self.passed != self.expected and (self.expected is not None or self.passed != self.collected):
            return f"{self.passed} of {self.expected or self.collected} tests passed, {self.skipped} skipped"
        return "ok" if self.pytest_code == 0 else f"pytest exited with {self.pytest_code}"

    def _where(self) -> str:
        return f", in {self.running}" if self.running and not self.ended else ""

    def as_dict(self) -> dict[str, Any]:
        """For -o json."""
        return {**asdict(self), "verdict": self.verdict()}


Table = list[list[str]]
"""Rows of cells; the first row is the heading."""


def table(results: Sequence[Result]) -> Table:
    """One column a kernel. Instructions: `verified/translated`, or the latter where the kernel tells no more."""
    names = list(dict.fromkeys(name for result in results for name in result.programs))
    features = list(dict.fromkeys(name for result in results for name in result.features))
    rows = [["", *(result.name for result in results)]]
    rows.append(["kernel", *(result.kernel or NOTHING for result in results)])
    rows.append(["bcc", *(result.bcc or NOTHING for result in results)])
    rows += [[f"program {name}", *(_counts(result.programs.get(name)) for result in results)] for name in names]
    rows += [[f"feature {name}", *(_yes_no(result.features.get(name)) for result in results)] for name in features]
    rows.append(["tests passed", *(_passed(result) for result in results)])
    rows.append(["tests failed", *(str(result.failed) if result.collected else NOTHING for result in results)])
    rows.append(["seconds", *(f"{result.seconds:.0f}" for result in results)])
    rows.append(["result", *("ok" if result.verdict() == "ok" else "FAILED" for result in results)])
    return rows


def _counts(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return NOTHING
    verified, translated = counts
    return f"{verified}/{translated}" if verified else str(translated)


def _yes_no(there: bool | None) -> str:  # noqa: FBT001  a cell
    return NOTHING if there is None else "yes" if there else "no"


def _passed(result: Result) -> str:
    if not result.collected:
        return NOTHING
    return f"{result.passed} of {result.expected or result.collected}"


def panic(console: str) -> str:
    """What a kernel that panicked says about it; empty where it did not."""
    found = re.search(r"Kernel panic - not syncing: .*", console)
    return found.group() if found else ""


def text(rows: Table) -> str:
    """A table for a terminal or a log."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown writes it."""
    heading, *rest = rows
    lines = [heading, ["---"] * len(heading), *rest]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def spliced(document: str, name: str, content: str) -> str:
    """The document with what stands between `<!-- name -->` and `<!-- /name -->` replaced. Raises ValueError."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    start, stop = document.find(begin), document.find(end)
    if start < 0 or stop < start:
        raise ValueError(f"no {begin.strip()} ... {end}")
    return f"{document[: start + len(begin)]}\n{content}\n{document[stop:]}"
