"""`dagwall`: the commands and what they have in common."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any, NoReturn

import click

from agent import __version__
from agent.cli.ask import ask
from agent.cli.audit import audit
from agent.cli.completion import completion
from agent.cli.detach import detach
from agent.cli.doctor import doctor
from agent.cli.examples import add_examples
from agent.cli.flows import flows
from agent.cli.policy import policy
from agent.cli.rbac import rbac
from agent.cli.read import endpoints, identities, status
from agent.cli.run import run
from agent.cli.show import OUTPUT, print_json
from agent.cli.top import top
from agent.cli.why import why

EPILOG = """\b
Exit codes: 0 done (status: ready; policy explain: allow), 1 failed (status: not ready; policy check: errors),
2 wrong usage, 3 policy explain: deny. Every option can be given as DAGWALL_COMMAND_OPTION in the environment.
"""


CONTEXT = {"auto_envvar_prefix": "DAGWALL", "help_option_names": ["-h", "--help"], "max_content_width": 100}


class Group(click.Group):
    """A boundary for all commands: what cannot be written to standard output is one line, not a trace."""

    def main(self, *args: Any, **extra: Any) -> Any:
        words = args[0] if args else extra.get("args")
        running = list(sys.argv[1:] if words is None else words)[:1] == ["run"]  # it writes nothing there
        if sys.stdout is None and not running:  # `>&-`
            _end("standard output is closed")
        try:
            try:
                return super().main(*args, **extra)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except OSError as exc:
            if exc.filename is not None or running:
                raise
            _forget_output()
            _end(f"standard output: {exc.strerror or exc}")


def _forget_output() -> None:
    """What is in its buffer would fail again at the end of the process."""
    if sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end(problem: str) -> NoReturn:
    click.echo(f"Error: {problem}", err=True)
    sys.exit(1)


@click.group(cls=Group, epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(__version__, "--version", message="dagwall %(version)s")
def main() -> None:
    """A network firewall and flight recorder for Apache Airflow tasks, in the Linux kernel."""


@main.command()
@OUTPUT
def version(output: str) -> None:
    """Versions of dagwall, Python and the kernel."""
    found = {"dagwall": __version__, "python": platform.python_version(), "kernel": platform.release()}
    if output == "json":
        print_json(found)
    else:
        click.echo("\n".join(f"{name} {number}" for name, number in found.items()))


for command in (
    run, status, endpoints, identities, flows, why, top, policy, audit, rbac, doctor, detach, completion, ask
):  # fmt: skip
    main.add_command(command)
add_examples(main, "dagwall")
