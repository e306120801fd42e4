"""`dagwall`: the commands and what they have in common."""

from __future__ import annotations

import platform

import click

from agent import __version__
from agent.cli.detach import detach
from agent.cli.policy import policy
from agent.cli.read import endpoints, flows, identities, status, why
from agent.cli.run import run
from agent.cli.show import OUTPUT, print_json

EPILOG = """\b
Exit codes: 0 done (status: ready; policy explain: allow), 1 failed (status: not ready; policy check: errors),
2 wrong usage, 3 policy explain: deny. Every option can be given as DAGWALL_COMMAND_OPTION in the environment.
"""


@click.group(
    epilog=EPILOG,
    context_settings={
        "auto_envvar_prefix": "DAGWALL", "help_option_names": ["-h", "--help"], "max_content_width": 100
    },
)  # fmt: skip
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


for command in (run, status, endpoints, identities, flows, why, policy, detach):
    main.add_command(command)
