"""`dagwall top`: which DAGs, or tasks, send and open most, and which are denied most."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from agent.cli import asking
from agent.cli.read import SOCKET, chosen, who
from agent.cli.show import OUTPUT, amount, print_json, print_table, speaks, table_lines

Key = tuple[str, str, str]
"""Namespace, DAG, and task or ""."""
ORDERS = ("bytes", "connections", "denials")


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one DAG or task. Since the programs were first loaded, or over some time."""

    sent_bytes: int = 0
    received_bytes: int = 0
    connections: int = 0
    denied_packets: int = 0
    audited: int = 0

    @property
    def bytes(self) -> int:
        return self.sent_bytes + self.received_bytes

    @property
    def denials(self) -> int:
        return self.denied_packets + self.audited

    def plus(self, other: Counts, sign: int = 1) -> Counts:
        names = [field.name for field in fields(self)]
        return Counts(**{name: getattr(self, name) + sign * getattr(other, name) for name in names})


def summed(identities: Iterable[Mapping[str, Any]], *, by_task: bool) -> dict[Key, Counts]:
    """Identities that differ in their service account, kind or number only are one."""
    found: dict[Key, Counts] = {}
    for row in identities:
        key = (row["namespace"], row["dag_id"], row["task_id"] if by_task else "")
        own = Counts(**{field.name: row[field.name] for field in fields(Counts)})
        found[key] = found.get(key, Counts()).plus(own)
    return found


def ordered(counts: Mapping[Key, Counts], order: str, last: int) -> list[tuple[Key, Counts]]:
    """The first ones; what counts nothing is left out."""
    rows = [(key, each) for key, each in counts.items() if each != Counts()]
    return sorted(rows, key=lambda row: (-getattr(row[1], order), row[0]))[:last]


def grown(before: Mapping[Key, Counts], after: Mapping[Key, Counts]) -> dict[Key, Counts]:
    """What came in between; nothing of an identity whose number was given to another meanwhile, and counts less."""
    growth = {key: now.plus(before.get(key, Counts()), -1) for key, now in after.items()}
    return {key: replace(each, **{f.name: max(0, getattr(each, f.name)) for f in fields(each)})
            for key, each in growth.items()}  # fmt: skip


@click.command()
@who
@click.option("--by", type=click.Choice(["dag", "task"]), default="dag", show_default=True, help="What a line is.")
@click.option(
    "--sort", "order", type=click.Choice(ORDERS), default="bytes", show_default=True, help="What comes first."
)
@click.option("--last", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many lines.")
@click.option("--interval", type=click.FloatRange(0.5, 60), default=2.0, show_default=True, help="Seconds, live.")
@SOCKET
@OUTPUT
@speaks
def top(  # noqa: PLR0917  click gives them by name
    socket: Path, output: str, by: str, order: str, last: int, interval: float, **wanted: str
) -> None:
    """DAGs by bytes, connections and denials: on a terminal live, by what came in each interval; else the totals."""
    client = asking.agent(socket)

    def read() -> dict[Key, Counts]:
        return summed(chosen(client.ask("identities"), **wanted), by_task=by == "task")

    if output == "json":
        print_json([_row(*each) for each in ordered(read(), order, last)])
    elif sys.stdout.isatty():
        _live(read, order, last, interval)
    else:
        print_table(_columns(""), [_cells(*each) for each in ordered(read(), order, last)], empty="no traffic yet")


def _live(read: Any, order: str, last: int, interval: float) -> None:
    """Until Ctrl-C."""
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    before, at = read(), time.monotonic()
    try:
        with Live(Text("..."), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                after, now = read(), time.monotonic()
                rows = [
                    _cells(key, _rate(each, now - at)) for key, each in ordered(grown(before, after), order, last)
                ]
                lines = table_lines(_columns("/S"), rows) if rows else ["no traffic"]
                live.update(Text.from_ansi("\n".join(lines)), refresh=True)
                before, at = after, now
    except KeyboardInterrupt:
        return


def _rate(counts: Counts, seconds: float) -> Counts:
    return Counts(**{field.name: round(getattr(counts, field.name) / seconds) for field in fields(counts)})


def _columns(per: str) -> tuple[str, ...]:
    return ("NAMESPACE", "DAG/TASK", *(f"{name}{per}" for name in ("SENT", "RECEIVED", "CONNS", "DENIED", "AUDITED")))


def _cells(key: Key, counts: Counts) -> tuple[object, ...]:
    namespace, dag, task = key
    name = f"{dag}/{task}" if task else dag or "-"
    return (
        namespace, name, amount(counts.sent_bytes), amount(counts.received_bytes), counts.connections,
        counts.denied_packets, counts.audited,
    )  # fmt: skip


def _row(key: Key, counts: Counts) -> dict[str, Any]:
    who = dict(zip(("namespace", "dag_id", "task_id"), key, strict=True))
    return who | {field.name: getattr(counts, field.name) for field in fields(counts)}
