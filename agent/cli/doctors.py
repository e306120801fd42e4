"""`kubectl dagwall doctor`: what `dagwall doctor` finds on every node that has an agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from agent.cli.doctor.finding import Level
from agent.cli.show import print_json, print_line

Row = dict[str, Any]
_SAME = ("level", "what", "found", "do")
_ORDER = (Level.FAILS, Level.WARNS)
_NAMED = 5


def together(found: Mapping[str, list[Row]]) -> list[Row]:
    """Equal findings of several nodes as one, with `nodes`; what fails first, and what most nodes have. Pure."""
    nodes: dict[tuple[str, ...], list[str]] = {}
    for node, rows in sorted(found.items()):
        for row in rows:
            nodes.setdefault(tuple(str(row[name]) for name in _SAME), []).append(node)
    rows = [dict(zip(_SAME, same, strict=True)) | {"nodes": names} for same, names in nodes.items()]
    levels = [level.value for level in (*_ORDER, Level.OK)]
    return sorted(rows, key=lambda row: (levels.index(row["level"]), -len(row["nodes"])))


def show(found: Mapping[str, list[Row]], missing: Mapping[str, str], output: str) -> int:
    """The exit code: 1 where something fails on a node, or a node was not looked at."""
    rows = together(found)
    if output == "json":
        print_json({"findings": rows, "missing": dict(missing)})
    else:
        _print([row for row in rows if row["level"] != Level.OK.value], len(found))
    return 1 if missing or any(row["level"] == Level.FAILS.value for row in rows) else 0


def _print(rows: list[Row], count: int) -> None:
    for row in rows:
        level = row["level"]
        more = len(row["nodes"]) - _NAMED
        named = ", ".join(row["nodes"][:_NAMED]) + (f" and {more} more" if more > 0 else "")
        where = "every node" if len(row["nodes"]) == count > 1 else named
        print_line(level, f"{'':<{5 - len(level)}}{row['what']}:", row["found"])
        print_line(f"       do: {row['do']}")
        print_line(f"       on {where}")
    fails, warns = (sum(row["level"] == level.value for row in rows) for level in _ORDER)
    click.echo(f"{count} nodes, {warns} warn, {fails} fail")
