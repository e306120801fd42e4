"""`dagwall flows`: the last flows and denials, and those that come."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from agent.cli import asking
from agent.cli.filters import WithNot, filters, split
from agent.cli.flow_forms import FLOW_COLUMNS, FORMS, as_columns, flow_cells
from agent.cli.read import POD, SOCKET, who
from agent.cli.show import print_json, print_line, print_table, speaks
from agent.text import json_text

VERDICTS = ["allow", "deny", "audit"]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _since(_: click.Context, __: click.Parameter, value: str | None) -> float:
    """Seconds since the epoch of `10m` ago, or of a date with a time, local unless it has a zone."""
    if not value:
        return 0.0
    number, unit = value[:-1], value[-1:]
    if unit in _UNITS and number.isascii() and number.isdigit():
        return time.time() - int(number) * _UNITS[unit]
    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"must be a number and s, m, h or d, such as 10m, or a time such as 2026-01-31T08:00:00Z, not {value!r}"
        ) from None


SINCE = click.option("--since", callback=_since, metavar="TIME", help="Not older than 30s, 10m, 2h, 1d, or a time.")
UNTIL = click.option("--until", callback=_since, metavar="TIME", help="Not newer than that.")


@click.command(cls=WithNot)
@who
@POD
@click.option("--peer", default="", help="Peer's name or address; the same.")
@click.option("--verdict", "only_verdict", multiple=True, type=click.Choice(VERDICTS), help="Only these.")
@click.option("--direction", type=click.Choice(["egress", "ingress"]), help="Who opened: the task, or its peer.")
@click.option("--protocol", "only_protocol", multiple=True, help="Such as TCP, UDP, ICMP; the name that is shown.")
@click.option("--port", type=click.IntRange(1, 65535), help="The peer's for what a pod opened, else the pod's.")
@click.option("--reason", default="", help="Such as no_rule, deny_rule, nxdomain; * for any run of characters.")
@click.option("--run", default="", help="Run id; the same.")
@filters
@SINCE
@UNTIL
@click.option("--last", type=click.IntRange(0, 10_000), default=20, show_default=True, help="At most so many.")
@click.option("-f", "--follow", is_flag=True, help="And what comes from now on.")
@SOCKET
@click.option(
    "-o", "--output", type=click.Choice(list(FORMS)), default="table", show_default=True, help="Form of output."
)
@speaks
def flows(socket: Path, output: str, *, follow: bool, **given: Any) -> None:
    """The last flows, denials and lookups in vain: who with whom, how much, by which rule.

    Filters can be repeated: those of one name are alternatives, those of different names must all fit. `*` stands for
    any run of characters.
    """
    wanted = split(given)
    if follow:
        _follow(asking.agent(socket), output, wanted)
        return
    rows = asking.agent(socket).ask("flows", **wanted)
    if output == "json":
        print_json(rows)
    elif output == "table":
        nodes = any("node" in row for row in rows)
        columns = ("NODE", *FLOW_COLUMNS) if nodes else FLOW_COLUMNS
        cells = ((row["node"], *flow_cells(row)) if nodes else flow_cells(row) for row in rows)
        print_table(columns, cells, empty="no flows")
    else:
        for row in rows:
            _print(FORMS[output](row))
        if not rows:
            click.echo("no flows")


def _follow(client: asking.Asker, output: str, wanted: dict[str, Any]) -> None:
    """Until the agent ends, or Ctrl-C."""
    nodes = asking.of_many(client) and output in ("table", "compact")
    if output == "table":
        print_line(*(["NODE        "] if nodes else []), as_columns(FLOW_COLUMNS))
    try:
        for answer in client.follow(**wanted):
            if output == "json":
                click.echo(json_text(answer.get("item", answer)))
            elif "lost" in answer:
                print_line(f"... {answer['lost']} lost: this terminal is too slow")
            else:
                row = answer["item"]
                _print(f"{row['node']:<12} {FORMS[output](row)}" if nodes else FORMS[output](row))
    except KeyboardInterrupt:
        return


def _print(text: str) -> None:
    for line in text.split("\n"):
        print_line(line)
