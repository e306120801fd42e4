"""`dagwall why`: what failed and what to do, as a colleague would tell it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli import asking
from agent.cli.flows import SINCE, UNTIL
from agent.cli.read import POD, SOCKET, task_of, who
from agent.cli.show import OUTPUT, clock, moment, print_heading, print_json, print_line, print_table, speaks


@click.command()
@who
@click.option("--run", default="", help="Run id; the same.")
@POD
@SINCE
@UNTIL
@click.option("--last", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many kinds.")
@SOCKET
@OUTPUT
@speaks
def why(socket: Path, output: str, **wanted: Any) -> None:
    """Why did calls of a task fail? The most important first, equal ones together; without a name, of any task."""
    found = asking.agent(socket).ask("why", **wanted)
    if output == "json":
        print_json(found)
        return
    if not found["failures"]:
        click.echo("no failures are remembered" + (", but there were denials:" if found["totals"] else ""))
    for row in found["failures"]:
        _print(row)
    if found["totals"]:
        click.echo("\nExact totals of denials since the programs were first loaded:")
        print_table(
            ("IDENTITY", "VERDICT", "DIRECTION", "REASON", "RULE", "PACKETS"),
            (
                (row["name"], row["verdict"], row["direction"], row["reason"], row["rule"], row["packets"])
                for row in found["totals"]
            ),
        )


def _print(row: dict[str, Any]) -> None:
    task = task_of(row) or "a pod without a task"
    print_heading(f"{row['namespace']} {task} ({', '.join(_who(row))})")
    print_line(f"  {row['text']}")
    for note in row["notes"]:
        print_line(f"  {note}")
    for step in row["next"]:
        print_line(f"  next: {step}")
    print_line(f"  {_times(row)}")


def _who(row: dict[str, Any]) -> Iterator[str]:
    yield f"pod {row['pod']}"
    if row["run_id"]:
        mapped = f" map index {row['map_index']}" if row["map_index"] not in ("", "-1") else ""
        yield f"run {row['run_id']} try {row['try_number']}{mapped}"
    if row["comm"] or row["pid"]:
        yield " ".join(filter(None, (row["comm"] or "process", f"pid {row['pid']}" if row["pid"] else "")))


def _times(row: dict[str, Any]) -> str:
    if row["events"] == 1:
        return moment(row["last"])
    same_day = moment(row["first"])[:10] == moment(row["last"])[:10]
    last = clock(row["last"])[:8] if same_day else moment(row["last"])
    return f"{row['events']} times, {moment(row['first'])} to {last}"
