"""The command, and how its findings look."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.doctor.checks import findings
from agent.cli.doctor.finding import Finding, Level
from agent.cli.doctor.look import DEFAULT_PINS, look
from agent.cli.read import SOCKET
from agent.cli.show import OUTPUT, print_json, print_line, speaks
from agent.outputs.plain import plain


@click.command()
@click.option(
    "--root", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("/"), show_default=True,
    help="Where the host's files are, such as /host of `kubectl debug node/NODE`.",
)  # fmt: skip
@click.option("--pins", type=click.Path(path_type=Path), default=DEFAULT_PINS, show_default=True, help="As of `run`.")
@SOCKET
@OUTPUT
@click.pass_context
@speaks
def doctor(context: click.Context, /, root: Path, pins: Path, socket: Path, output: str) -> None:
    """Would dagwall work on this node, and what would it not hold? Exit code 1: something would fail.

    Before anything is installed, as root. It changes nothing.
    """
    found = findings(look(root, pins, socket))
    if output == "json":
        print_json(plain(found))
    else:
        _print(found)
    context.exit(1 if any(each.level is Level.FAILS for each in found) else 0)


def _print(found: tuple[Finding, ...]) -> None:
    for each in found:
        print_line(f"{each.level.value}", f"{'':<{5 - len(each.level.value)}}{each.what}:", each.found)
        if each.do:
            print_line(f"       do: {each.do}")
    counts = {level: sum(each.level is level for each in found) for level in Level}
    click.echo(f"{counts[Level.OK]} ok, {counts[Level.WARNS]} warn, {counts[Level.FAILS]} fail")
