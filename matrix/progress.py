"""What the guests are at, on standard error: one line each that changes on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from matrix.report import Result

_EVERY = 10
"""Tests between two lines where there is no terminal."""


class Progress:
    """Use as a context manager. Called from the guests' threads."""

    def __init__(self, console: Console) -> None:
        self._console, self._lock = console, threading.Lock()
        self._lines: dict[str, str] = {}
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False)

    def step(self, name: str, text: str, *, done: int = 0) -> None:
        """What one guest is at. `done` tests: without a terminal only every tenth is a line."""
        with self._lock:
            if self._live is None:
                if done % _EVERY == 0:
                    self.say(f"[{name}] {text}")
                return
            self._lines[name] = text
            table = Table.grid(padding=(0, 2))
            for guest, line in self._lines.items():
                table.add_row(guest, line)
            self._live.update(table)

    def record(self, result: Result, kind: str) -> None:
        """What the latest record of a guest means for a person."""
        total = result.expected or result.collected
        match kind:
            case "boot":
                self.step(
                    result.name, f"{result.kernel} is up after {result.boot_seconds:.1f} s, loading the programs"
                )
            case "programs":
                self.step(result.name, f"{len(result.programs)} programs loaded")
            case "collected":
                self.step(result.name, f"0 of {total} tests")
            case "test":
                failed = f", {result.failed} failed" if result.failed else ""
                self.step(result.name, f"{result.done} of {total} tests{failed}", done=result.done)
