"""The filters of `dagwall flows` as options: by either end as Hubble's, and `--not` in front of what it reverses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from agent.outputs.ends import EITHER, FIELDS, NOUNS

_METAVARS = {"port": "PORT", "ip": "ADDRESS|CIDR", "fqdn": "NAME", "pod": "[NAMESPACE/]NAME"}
_SHORT = {"-n": "namespace"}
_ENDS = {"from": "Of who opened.", "to": "Of who was reached."}


class WithNot(click.Command):
    """`--not --to-port 443`: the filter after it lets through what does not fit."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, reversed_filters(args, ctx))


def reversed_filters(args: list[str], ctx: click.Context | None = None) -> list[str]:
    """`--not --x v` as `--not-x v`. Raises UsageError where no filter follows."""
    out: list[str] = []
    words = iter(args)
    for word in words:
        if word != "--not":
            out.append(word)
            continue
        option, equals, value = next(words, "").partition("=")
        name = _SHORT.get(option) or option.removeprefix("--").replace("-", "_")
        if name not in FIELDS or not option.startswith("-"):
            raise click.UsageError(f"--not: must stand before a filter, such as --to-port, not {option!r}", ctx)
        out.append(f"--not-{name.replace('_', '-')}{equals}{value}")
    return out


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for all of FIELDS; those that stand alone and are not of both ends belong to the command."""
    for name in sorted(FIELDS):
        hidden = click.option(f"--not-{name.replace('_', '-')}", f"without_{name}", multiple=True, hidden=True)
        command = hidden(command)
    for side, text in reversed(_ENDS.items()):
        for noun in reversed(NOUNS):
            command = _option(f"{side}_{noun}", text)(command)
    for noun in reversed(EITHER):
        command = _option(noun, "Of either end.")(command)
    click.option("--not", "unused", is_flag=True, expose_value=False, help="Reverse the filter that follows.")(
        command
    )
    return command


def _option(name: str, text: str) -> Callable[..., Any]:
    noun = name.partition("_")[2] if name.startswith(("from_", "to_")) else name
    metavar = _METAVARS.get(noun, "PATTERN")
    return click.option(f"--{name.replace('_', '-')}", f"only_{name}", multiple=True, metavar=metavar, help=text)


def split(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as fields of a request: `only` and `without` by the names of filters, the others as they are."""
    request: dict[str, Any] = {"only": {}, "without": {}}
    for name, value in given.items():
        kind, _, field = name.partition("_")
        if kind in ("only", "without") and field:
            if value:
                request[kind][field] = list(value)
        elif value is not None:
            request[name] = value
    return request
