"""`dagwall completion`: what a shell must know to complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from agent.errors import DagwallError

_NAME = "dagwall"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, /, shell: str) -> None:
    """A script for SHELL that completes dagwall's commands and options."""
    found = get_completion_class(shell)
    if found is None:
        raise DagwallError(f"{shell}: no completion for it")
    root = context.find_root().command
    click.echo(found(root, {}, _NAME, f"_{_NAME.upper()}_COMPLETE").source())
