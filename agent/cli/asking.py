"""Whom a command asks: the agent on a socket of this machine, or, by `kubectl dagwall`, those of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import click

from agent.outputs.client import Client


@runtime_checkable
class Asker(Protocol):
    """Raises DagwallError with a sentence for people."""

    def ask(self, request: str, **fields: Any) -> Any: ...
    def follow(self, **fields: Any) -> Iterator[dict[str, Any]]: ...


def of_many(asker: Asker) -> bool:
    """Are the rows of its answers of several nodes, each with its `node`?"""
    return not isinstance(asker, Client)


def agent(socket: Path) -> Asker:
    """The one that the context of the running command has, else this machine's own."""
    given = click.get_current_context().obj
    return given if isinstance(given, Asker) else Client(socket)
