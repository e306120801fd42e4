"""How answers look: JSON for machines; tables for people, with colour on a terminal only (NO_COLOR counts).

rich is imported where it is used: `dagwall run` needs none of it, and it is 2.5 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from agent.errors import DagwallError
from agent.text import json_text, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

P = ParamSpec("P")
R = TypeVar("R")

OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form of output."
)
_WIDE = 1000
"""Columns where the output is no terminal: what reads it should get whole lines."""

_GAP = 2
"""Blanks between columns."""

STYLES = {
    "allow": "green", "deny": "bold red", "audit": "yellow", "managed": "green", "pending": "yellow",
    "quarantined": "bold red", "unmanaged": "dim", "ready": "bold green", "not ready": "bold red",
    "error": "bold red", "warning": "yellow", "ok": "green", "warns": "yellow", "fails": "bold red",
}  # fmt: skip


def speaks(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose DagwallErrors are one line on standard error and exit code 1."""

    @wraps(command)
    def spoken(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except DagwallError as exc:
            raise click.ClickException(printable(str(exc), keep="\n")) from exc

    return spoken


def print_json(value: Any) -> None:
    click.echo(json_text(value, indent=2))


def console(width: int = 0) -> Console:
    """0: as wide as the terminal; elsewhere wide enough for whole lines."""
    from rich.console import Console  # noqa: PLC0415

    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, highlight=False, markup=False, emoji=False, force_terminal=terminal,
        width=width or (None if terminal else _WIDE),
    )  # fmt: skip


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "nothing") -> None:
    """Numbers stand right. Words that STYLES knows have its colour. Cells break between words, never inside of one:
    a terminal that is too narrow for the longest words gets longer lines.
    """
    listed = [list(row) for row in rows]
    if not listed:
        click.echo(empty)
        return
    click.echo("\n".join(table_lines(columns, listed)))


def table_lines(columns: Sequence[str], listed: Sequence[Sequence[object]]) -> list[str]:
    """As print_table prints them."""
    from rich.table import Table  # noqa: PLC0415

    widths = _widths([[printable(str(value)) for value in row] for row in (columns, *listed)])
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for number, (name, width) in enumerate(zip(columns, widths, strict=True)):
        numeric = all(isinstance(row[number], int | float) for row in listed)
        table.add_column(_cell(name), justify="right" if numeric else "left", width=width, overflow="fold")
    for row in listed:
        table.add_row(*(_cell(value) for value in row))
    printed = console(sum(widths) + _GAP * len(widths))
    with printed.capture() as captured:
        printed.print(table)
    lines = captured.get().splitlines()
    return lines if sys.stdout.isatty() else [line.rstrip() for line in lines]


def _widths(cells: list[list[str]]) -> list[int]:
    """Of columns: as wide as their cells, and on a terminal no wider than that leaves room, as far as words allow."""
    from rich.cells import cell_len  # noqa: PLC0415

    columns = list(zip(*cells, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    least = [max(cell_len(word) for text in column for word in text.split() or [""]) for column in columns]
    excess = sum(widths) + _GAP * len(widths) - console().width if sys.stdout.isatty() else 0
    for number in sorted(range(len(widths)), key=lambda number: least[number] - widths[number]):
        cut = max(0, min(excess, widths[number] - least[number]))
        widths[number] -= cut
        excess -= cut
    return widths


def print_line(*parts: object) -> None:
    """One line; words that STYLES knows have its colour."""
    console().print(_cell(" ").join(_cell(part) for part in parts), soft_wrap=True)


def print_heading(text: str) -> None:
    console().print(_cell(text), style="bold", soft_wrap=True)


def _cell(value: object) -> Text:
    from rich.text import Text  # noqa: PLC0415

    text = printable(str(value))
    return Text(text, style=STYLES.get(text.lower(), ""))


def amount(number: int) -> str:
    """`5.0 kB`"""
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{number} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def clock(seconds: float) -> str:
    """Local time of day, with milliseconds."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S.%f")[:-3]


def moment(seconds: float) -> str:
    """Local date and time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
