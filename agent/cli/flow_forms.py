"""One line of `dagwall flows` in each of its forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent.cli.read import task_of
from agent.cli.show import amount, clock, moment
from agent.outputs.words import socket_text
from agent.text import json_text, printable

Row = dict[str, Any]
FLOW_COLUMNS = ("TIME", "TASK", "", "PEER", "ADDRESS", "VERDICT", "SENT", "RECEIVED", "RULE OR REASON")
_WIDTHS = (12, 24, 2, 16, 25, 7, 9, 9, 0)


def as_columns(cells: Sequence[str]) -> str:
    """For what comes one by one: columns of a fixed width."""
    shown = (printable(cell).ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return " ".join(shown).rstrip()


def flow_cells(row: Row) -> tuple[str, ...]:
    """Of a table with FLOW_COLUMNS."""
    counted = row["kind"] == "flow"
    return (
        clock(row["time"]),
        task_of(row) or row["pod"] or f"identity {row['identity']}",
        "->" if row["direction"] == "egress" else "<-",
        row["peer"],
        _address(row),
        row["verdict"],
        amount(row["sent_bytes"]) if counted else "",
        amount(row["received_bytes"]) if counted else "",
        _because(row),
    )


def _because(row: Row) -> str:
    if row["kind"] == "lookup":
        return str(row["text"])
    if row["kind"] == "outcome":
        return " ".join(filter(None, (row["reason"].replace("_", " "), row["detail"])))
    return str(row["rule"] or row["reason"].replace("_", " "))


def _address(row: Row) -> str:
    """`192.0.2.9:443/TCP`; of what came in, the peer's address and the port of ours that it came to."""
    if not row["address"]:
        return f"{row['protocol']} socket"
    if row["direction"] == "egress":
        return f"{socket_text(row['address'], row['port'])}/{row['protocol']}"
    ours = f":{row['port']}/{row['protocol']}" if row["port"] else row["protocol"]
    return f"{socket_text(row['address'], row.get('source_port', 0))} to {ours}"


def compact(row: Row) -> str:
    """One line: who, whom, what became of it, and why."""
    task = task_of(row)
    who = f"{row['namespace']}/{row['pod']}" + (f" ({task})" if task else "")
    arrow = "->" if row["direction"] == "egress" else "<-"
    because = _because(row)
    why = f" ({because})" if because else ""
    text = f"{moment(row['time'])}: {who} {arrow} {row['peer']} {_address(row)} {row['verdict'].upper()}{why}"
    return printable(text)


def dictionary(row: Row) -> str:
    """Each field that has a value, and a line after the last."""
    return "\n".join((*_fields(row), "-" * 12))


def _fields(row: Row) -> Iterator[str]:
    width = max(map(len, row))
    for name, value in row.items():
        if value not in ("", 0, False) or name == "time":
            yield f"{name:>{width}}: {printable(moment(value) if name == 'time' else str(value))}"


FORMS: dict[str, Callable[[Row], str]] = {
    "table": lambda row: as_columns(flow_cells(row)),
    "compact": compact,
    "dict": dictionary,
    "json": json_text,
}
"""By their names: one flow as a text."""
