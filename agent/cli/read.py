"""The noun commands: what a running agent reports. They change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli import asking
from agent.cli.show import OUTPUT, amount, print_json, print_table, speaks
from agent.cli.status import print_status
from agent.config import Config
from agent.errors import DagwallError
from agent.model.selector import id_matches
from agent.outputs.records import pod_text

SOCKET = click.option(
    "--socket", type=click.Path(path_type=Path), default=Config.__dataclass_fields__["socket"].default,
    show_default=True, help="Of the agent.",
)  # fmt: skip


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
    found = asking.agent(socket).ask("status")
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
    rows = [row for row in chosen(asking.agent(socket).ask("endpoints"), **wanted) if state in (None, row["state"])]
    if output == "json":
        print_json(rows)
        return
    print_table(
        ("NAMESPACE", "POD", "STATE", "DAG/TASK", "RUN", "TRY", "RULESET", "NOTE"),
        (
            (row["namespace"], row["pod"] or row["uid"], row["state"], task_of(row), row["run_id"], row["try_number"],
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
    rows = chosen(asking.agent(socket).ask("identities"), **wanted)
    if output == "json":
        print_json(rows)
        return
    print_table(
        ("NUMBER", "NAMESPACE", "ACCOUNT", "DAG/TASK", "PODS", "CONNS", "SENT", "RECEIVED", "DENIED", "AUDITED"),
        (
            (row["number"], row["namespace"], row["service_account"], task_of(row), row["endpoints"],
             row["connections"], amount(row["sent_bytes"]), amount(row["received_bytes"]), row["denied_packets"],
             row["audited"])
            for row in sorted(rows, key=lambda row: row["number"])
        ),
        empty="no identities",
    )  # fmt: skip


def task_of(row: dict[str, Any]) -> str:
    mark = "?" if row.get("ambiguous") else ""
    return f"{row['dag_id']}/{row['task_id']}{mark}" if row["dag_id"] else ""
