"""`dagwall flows`: the last flows and denials, and those that come."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from agent.cli.read import POD, SOCKET, task_of, who
from agent.cli.show import OUTPUT, amount, clock, print_json, print_line, print_table, speaks
from agent.outputs.client import Client
from agent.outputs.words import socket_text
from agent.text import json_text

FLOW_COLUMNS = ("TIME", "TASK", "", "PEER", "ADDRESS", "VERDICT", "SENT", "RECEIVED", "RULE OR REASON")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _since(_: click.Context, __: click.Parameter, value: str | None) -> float:
    """Seconds since the epoch of `10m` ago."""
    if not value:
        return 0.0
    number, unit = value[:-1], value[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit():
        raise click.BadParameter(f"must be a number and s, m, h or d, such as 10m, not {value!r}")
    return time.time() - int(number) * _UNITS[unit]


SINCE = click.option("--since", callback=_since, metavar="TIME", help="Not older than 30s, 10m, 2h, 1d.")
UNTIL = click.option("--until", callback=_since, metavar="TIME", help="Not newer than that.")


@click.command()
@who
@POD
@click.option("--peer", default="", help="Peer's name or address; the same.")
@click.option("--verdict", type=click.Choice(["allow", "deny", "audit"]), help="Only these.")
@click.option("--direction", type=click.Choice(["egress", "ingress"]), help="Who opened: the task, or its peer.")
@click.option("--protocol", default="", help="Such as TCP, UDP, ICMP; the name that is shown.")
@click.option("--port", type=click.IntRange(1, 65535), help="The peer's for what a pod opened, else the pod's.")
@click.option("--reason", default="", help="Such as no_rule, deny_rule; * for any run of characters.")
@SINCE
@UNTIL
@click.option("--last", type=click.IntRange(0, 10_000), default=20, show_default=True, help="At most so many.")
@click.option("-f", "--follow", is_flag=True, help="And what comes from now on.")
@SOCKET
@OUTPUT
@speaks
def flows(socket: Path, output: str, *, follow: bool, **wanted: Any) -> None:
    """The last flows and denials: who with whom, how much, by which rule."""
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if follow:
        _follow(Client(socket), output, wanted)
        return
    rows = Client(socket).ask("flows", **wanted)
    if output == "json":
        print_json(rows)
        return
    print_table(
        FLOW_COLUMNS,
        (_flow_cells(row) for row in rows),
        empty="no flows",
    )


def _follow(client: Client, output: str, wanted: dict[str, Any]) -> None:
    """Until the agent ends, or Ctrl-C."""
    if output != "json":
        print_line(_columns(FLOW_COLUMNS))
    try:
        for answer in client.follow(**wanted):
            if output == "json":
                click.echo(json_text(answer.get("item", answer)))
            elif "lost" in answer:
                print_line(f"... {answer['lost']} lost: this terminal is too slow")
            else:
                print_line(_columns(_flow_cells(answer["item"])))
    except KeyboardInterrupt:
        return


def _columns(cells: tuple[str, ...]) -> str:
    widths = (12, 24, 2, 16, 25, 7, 9, 9, 0)
    return " ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _flow_cells(row: dict[str, Any]) -> tuple[str, ...]:
    denial = row["kind"] == "denial"
    because = row["rule"] or row["reason"].replace("_", " ")
    return (
        clock(row["time"]),
        task_of(row) or row["pod"] or f"identity {row['identity']}",
        "->" if row["direction"] == "egress" else "<-",
        row["peer"],
        _address(row),
        row["verdict"],
        "" if denial else amount(row["sent_bytes"]),
        "" if denial else amount(row["received_bytes"]),
        because,
    )


def _address(row: dict[str, Any]) -> str:
    """`192.0.2.9:443/TCP`; of what came in, the peer's address and the port of ours that it came to."""
    if not row["address"]:
        return f"{row['protocol']} socket"
    if row["direction"] == "egress":
        return f"{socket_text(row['address'], row['port'])}/{row['protocol']}"
    ours = f":{row['port']}/{row['protocol']}" if row["port"] else row["protocol"]
    return f"{socket_text(row['address'], row.get('source_port', 0))} to {ours}"
