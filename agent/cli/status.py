"""`dagwall status` for people."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from agent.cli.show import amount, print_line, print_table

_FULL = 0.8
"""Share of a map from which it is worth a word."""

_SHOWN = 20


def print_status(status: dict[str, Any]) -> None:
    """What is wrong comes first."""
    print_line("ready" if status["ready"] else "not ready")
    for problem in status["problems"]:
        print_line("  problem:", problem)
    for name, value in _facts(status):
        print_line(f"{name + ':':<12}", value)
    _lines("notices", status["notices"])
    _lines("invalid objects; a valid generation before, if there was one, stays in force", status["object_errors"])
    _lines("not covered on this node", status.get("not_covered", []))
    _lines("pods that this kernel cannot hold", status["unenforceable"])
    _lines("containers that no program sees", status["outside"])
    click.echo()
    print_table(
        ("HOOK", "ROOT", "ATTACHED", "INSTRUCTIONS"),
        (
            (hook["hook"], hook["root"], "yes" if hook["attached"] else "NO", hook["instructions"])
            for hook in status["hooks"]
        ),
        empty="no hooks",
    )
    click.echo()
    print_table(
        ("MAP", "USED", "ENTRIES", "FILL"),
        ((fill["name"], fill["used"], fill["entries"], _fill(fill)) for fill in status["maps"]),
        empty="no maps",
    )


def _facts(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    complete = "" if status["complete"] else ", the list is not complete"
    yield "node", f"{status['node']}, dagwall {status['version']}, kernel {status['kernel']}, bcc {status['bcc']}"
    yield (
        "policies",
        (f"{status['policies']}, revision {status['revision']}, in the kernel {status['programmed']}{complete}"),
    )
    yield "posture", f"{status['posture']}; on agent loss {status['on_agent_loss']}"
    yield "endpoints", ", ".join(f"{count} {state}" for state, count in status["endpoints"])
    yield "features", ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in status["features"])
    yield (
        "agent",
        (
            f"up {_span(time.time() - status['started'])}; enforced after {status['enforcing_after_seconds']:.2f} s, "
            f"{amount(status['resident_bytes'])} of memory"
        ),
    )
    lost = [f"{count} {reason}" for reason, count in status["losses"] if count]
    yield "losses", ", ".join(lost) or "none"
    if status.get("repaired"):
        yield "repaired", f"{status['repaired']} entries of maps that another program had changed"


def _lines(title: str, lines: list[str]) -> None:
    if lines:
        click.echo(f"{title}:")
    for line in lines[:_SHOWN]:
        print_line(f"  {line}")
    if len(lines) > _SHOWN:
        click.echo(f"  ... and {len(lines) - _SHOWN} more: see -o json")


def _fill(fill: dict[str, Any]) -> str:
    share = fill["used"] / fill["entries"] if fill["entries"] else 0.0
    return f"{share:.1%}" + (" nearly full" if share >= _FULL else "")


def _span(seconds: float) -> str:
    minutes, left = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{left} s"
