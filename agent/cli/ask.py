"""`dagwall ask`: one request of the local API as it stands, for `kubectl dagwall` on another machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from agent.cli.read import SOCKET
from agent.cli.show import speaks
from agent.outputs.client import Client


def _request(_: click.Context, __: click.Parameter, value: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except ValueError as exc:
        raise click.BadParameter("must be a JSON object") from exc
    if not isinstance(found, dict):
        raise click.BadParameter("must be a JSON object")
    return found


@click.command(hidden=True)
@click.argument("request", callback=_request)
@SOCKET
@speaks
def ask(request: dict[str, Any], socket: Path) -> None:
    """Every answer of the agent as a line of JSON, refusals and all."""
    for answer in Client(socket).answers(request):
        click.echo(json.dumps(answer))
