"""The noun commands: what a running agent says. They change nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli.show import (
    OUTPUT,
    amount,
    clock,
    moment,
    print_heading,
    print_json,
    print_line,
    print_table,
    speaks,
)
from agent.cli.status import print_status
from agent.config import Config
from agent.errors import DagwallError
from agent.model.selector import id_matches
from agent.outputs.client import Client
from agent.outputs.records import pod_text
from agent.outputs.words import socket_text

SOCKET = click.option(
    "--socket", type=click.Path(path_type=Path), default=Config.__dataclass_fields__["socket"].default,
    show_default=True, help="Of the agent.",
)  # fmt: skip
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


def who(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that select tasks; `*` in ids."""
    for option in (
        click.option("--task", default="", help="Task id; * for any run of characters."),
        click.option("--dag", default="", help="DAG id; the same."),
        click.option("-n", "--namespace", default="", help="Namespace; the same."),
    ):
        command = option(command)
    return command


@click.command()
@SOCKET
@OUTPUT
@click.pass_context
@speaks
def status(context: click.Context, socket: Path, output: str) -> None:
    """Is everything enforced here? Exit code 0: ready, 1: not ready, or no agent."""
    found = Client(socket).ask("status")
    if output == "json":
        print_json(found)
    else:
        print_status(found)
    context.exit(0 if found["ready"] else 1)


POD = click.option("--pod", default="", help="Pod, NAME or NAMESPACE/NAME; the same.")


def chosen(rows: list[dict[str, Any]], **wanted: str) -> list[dict[str, Any]]:
    """Rows whose fields match patterns. Raises DagwallError where a name leaves none: it may be a typo."""
    for name, pattern in wanted.items():
        field = {"dag": "dag_id", "task": "task_id"}.get(name, name)
        texts = [pod_text(pattern, row["namespace"], row["pod"]) if name == "pod" else row[field] for row in rows]
        left = [row for row, text in zip(rows, texts, strict=True) if not pattern or id_matches(pattern, text)]
        if rows and not left:
            known = ", ".join(sorted({text for text in texts if text})[:10]) or "none"
            raise DagwallError(f"--{name}: {pattern!r} matches nothing here (known: {known})")
        rows = left
    return rows


@click.command()
@who
@POD
@click.option("--state", type=click.Choice(["pending", "managed", "unmanaged", "quarantined"]), help="Only these.")
@SOCKET
@OUTPUT
@speaks
def endpoints(socket: Path, output: str, *, state: str | None, **wanted: str) -> None:
    """Pods of this node as the kernel sees them."""
    rows = [row for row in chosen(Client(socket).ask("endpoints"), **wanted) if state in (None, row["state"])]
    if output == "json":
        print_json(rows)
        return
    print_table(
        ("NAMESPACE", "POD", "STATE", "DAG/TASK", "RUN", "TRY", "RULESET", "NOTE"),
        (
            (row["namespace"], row["pod"] or row["uid"], row["state"], _task(row), row["run_id"], row["try_number"],
             row["ruleset"] or "", "; ".join(_endpoint_notes(row)))
            for row in sorted(rows, key=lambda row: (row["namespace"], row["pod"]))
        ),
        empty="no endpoints",
    )  # fmt: skip


def _endpoint_notes(row: dict[str, Any]) -> Iterator[str]:
    if row["settled_by"]:
        yield f"by {row['settled_by']}"
    if row["escapes"] and row["state"] in ("managed", "quarantined"):
        yield f"can escape: {', '.join(row['escapes'])}"
    yield from row["contradictions"]


@click.command()
@who
@SOCKET
@OUTPUT
@speaks
def identities(socket: Path, output: str, **wanted: str) -> None:
    """Who tasks are, with exact totals since the programs were first loaded."""
    rows = chosen(Client(socket).ask("identities"), **wanted)
    if output == "json":
        print_json(rows)
        return
    print_table(
        ("NUMBER", "NAMESPACE", "ACCOUNT", "DAG/TASK", "PODS", "CONNS", "SENT", "RECEIVED", "DENIED", "AUDITED"),
        (
            (row["number"], row["namespace"], row["service_account"], _task(row), row["endpoints"],
             row["connections"], amount(row["sent_bytes"]), amount(row["received_bytes"]), row["denied_packets"],
             row["audited"])
            for row in sorted(rows, key=lambda row: row["number"])
        ),
        empty="no identities",
    )  # fmt: skip


@click.command()
@who
@POD
@click.option("--peer", default="", help="Peer's name or address; the same.")
@click.option("--verdict", type=click.Choice(["allow", "deny", "audit"]), help="Only these.")
@click.option("--direction", type=click.Choice(["egress", "ingress"]), help="Who opened: the task, or its peer.")
@click.option("--protocol", default="", help="Such as TCP, UDP, ICMP; the name that is shown.")
@click.option("--port", type=click.IntRange(1, 65535), help="The peer's for what a pod opened, else the pod's.")
@click.option("--reason", default="", help="Such as no_rule, deny_rule; * for any run of characters.")
@click.option("--since", callback=_since, metavar="TIME", help="Not older than 30s, 10m, 2h, 1d.")
@click.option("--until", callback=_since, metavar="TIME", help="Not newer than that.")
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
                click.echo(json.dumps(answer.get("item", answer), ensure_ascii=False))
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
        _task(row) or row["pod"] or f"identity {row['identity']}",
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


def _task(row: dict[str, Any]) -> str:
    mark = "?" if row.get("ambiguous") else ""
    return f"{row['dag_id']}/{row['task_id']}{mark}" if row["dag_id"] else ""


@click.command()
@who
@POD
@click.option("--last", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many kinds.")
@SOCKET
@OUTPUT
@speaks
def why(socket: Path, output: str, **wanted: Any) -> None:
    """Why was a task denied? Equal denials together, the newest first."""
    found = Client(socket).ask("why", **wanted)
    if output == "json":
        print_json(found)
        return
    if not found["denials"]:
        click.echo("no denials are remembered" + (", but there were some:" if found["totals"] else ""))
    for row in found["denials"]:
        task = _task(row) or "a pod without a task"
        tried = f", run {row['run_id']} try {row['try_number']}" if row["run_id"] else ""
        print_heading(f"{row['namespace']} {task} (pod {row['pod']}{tried})")
        times = f"{row['events']} times, last {moment(row['last'])}" if row["events"] > 1 else moment(row["last"])
        print_line(f"  {row['text']}")
        print_line(f"  {times}")
    if found["totals"]:
        click.echo("\nExact totals since the programs were first loaded:")
        print_table(
            ("IDENTITY", "VERDICT", "DIRECTION", "REASON", "RULE", "PACKETS"),
            (
                (row["name"], row["verdict"], row["direction"], row["reason"], row["rule"], row["packets"])
                for row in found["totals"]
            ),
        )
