"""`dagwall detach`: everything off the node, in an emergency."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from agent import log
from agent.cli.read import SOCKET
from agent.cli.show import OUTPUT, print_json, speaks
from agent.config import Config
from agent.errors import DagwallError, KernelError
from agent.kernel.datapath import detach as take_away
from agent.node.state import note_detached
from agent.outputs.client import Client

PINS, STATE = (Config.__dataclass_fields__[name].default for name in ("pins", "state"))


@click.command()
@click.option(
    "--pins", type=click.Path(path_type=Path), default=PINS, show_default=True, help="Where the agent pins."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=STATE,
    show_default=True,
    help="The agent's: its next start reads there that this was meant.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@SOCKET
@OUTPUT
@speaks
def detach(pins: Path, state: Path, socket: Path, output: str, *, yes: bool) -> None:
    """Take all programs off this node: NOTHING is enforced or counted afterwards.

    End the agent first: one that runs attaches its programs again.
    """
    if _is_held(pins, socket):
        raise DagwallError(
            f"detach {pins}: an agent runs here and would attach again within seconds: end it first, as with "
            "`kubectl -n dagwall-system delete daemonset dagwall-agent`"
        )
    if not yes:
        click.echo(f"This ends ALL enforcement of dagwall on this node ({pins}), and forgets all counters.", err=True)
        if not sys.stdin.isatty():
            raise click.UsageError("not confirmed: standard input is no terminal; give --yes")
        click.confirm("Detach?", abort=True, err=True)
    try:
        links = take_away(pins)
    except OSError as exc:
        raise KernelError(f"detach {pins}: {exc.strerror or exc}") from exc
    log.configure()
    if links:
        log.event("programs.detached", level=logging.CRITICAL, pins=str(pins), links=links)
        _note(state)
    if output == "json":
        print_json({"pins": str(pins), "links": links})
    elif not links:
        click.echo(f"nothing of dagwall was attached by {pins}")
    else:
        click.echo(f"DETACHED: {links} links removed. Tasks on this node are not enforced until `dagwall run`.")


def _note(state: Path) -> None:
    """What cannot be written costs no more than a word too much at the next start."""
    try:
        note_detached(state)
    except DagwallError as exc:
        log.event("detach.not_noted", level=logging.WARNING, why=str(exc))


def _is_held(pins: Path, socket: Path) -> bool:
    """By an agent that answers. One that hangs is no reason not to detach."""
    try:
        return bool(Client(socket).ask("status").get("pins") == str(pins))
    except DagwallError:
        return False
