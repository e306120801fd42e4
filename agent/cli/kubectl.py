"""`kubectl dagwall`: the same commands, asked of the agents of all nodes of a cluster."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import click

from agent import __version__
from agent.cli import doctors
from agent.cli.agents import Agents
from agent.cli.examples import add_examples
from agent.cli.flows import flows
from agent.cli.main import CONTEXT, Group
from agent.cli.policy import check, explain_
from agent.cli.read import endpoints
from agent.cli.run import POLICY_NAMES
from agent.cli.show import OUTPUT, print_json, print_line, print_table, speaks
from agent.cli.status import print_status
from agent.cli.top import top
from agent.cli.why import why
from agent.config import Config
from agent.errors import DagwallError

PARTIAL = 4
EPILOG = f"""\b
Exit codes: 0 done (status: every node ready), 1 failed (status: a node is not ready, or did not answer), 2 wrong
usage, 3 policy explain: deny, {PARTIAL} done, but for nodes that are named on standard error. The agents are asked by
what `kubectl exec` does: that needs the rights to list pods and to get and create pods/exec in their namespace.
"""
_SECONDS = 10.0
_SOCKET = Config(node="").socket
_OURS = ("kubeconfig", "kube_context", "agents", "on_node", "timeout")


def _options() -> list[click.Parameter]:
    """What each command has here in place of --socket."""
    return [
        click.Option(["--kubeconfig"], default="", metavar="PATH", help="[default: $KUBECONFIG, ~/.kube/config]"),
        click.Option(["--context", "kube_context"], default="", help="Of it.  [default: its current one]"),
        click.Option(["--agents"], default="dagwall-system", show_default=True, help="Namespace of the agents."),
        click.Option(["--node", "on_node"], default="", help="Ask this node's agent only."),
        click.Option(
            ["--timeout"], type=click.FloatRange(0.1, 3600), default=_SECONDS, show_default=True, metavar="SECONDS",
            help="For the answer of a node.",
        ),
    ]  # fmt: skip


def _connect(given: dict[str, Any]) -> Agents:
    """Takes our options out of what a command was given."""
    kubeconfig, context, namespace, node, seconds = (given.pop(name) for name in _OURS)
    return Agents.connect(str(kubeconfig), str(context), str(namespace), str(node), float(seconds))


def of_cluster(command: click.Command, *left_out: str) -> click.Command:
    """The same command, of all nodes; without options that are about one machine only."""
    callback = command.callback
    assert callback is not None

    @functools.wraps(callback)
    @speaks
    def asked(*args: Any, **given: Any) -> Any:
        context = click.get_current_context()
        context.obj = agents = _connect(given)
        try:
            callback(*args, socket=_SOCKET, **nothing, **given)
        except click.exceptions.Exit as exc:
            tell_missing(agents.missing)
            context.exit(exc.exit_code or (PARTIAL if agents.missing else 0))
        tell_missing(agents.missing)
        context.exit(PARTIAL if agents.missing else 0)

    nothing = {each.name: _nothing(each) for each in command.params if each.name in left_out}
    ours = copy.copy(command)
    ours.callback = asked
    ours.params = [*(each for each in command.params if each.name not in ("socket", *left_out)), *_options()]
    return ours


def _nothing(option: click.Parameter) -> Any:
    """As it is where nobody gives it."""
    return () if option.multiple else False if getattr(option, "is_flag", False) else None


def tell_missing(missing: Mapping[str, str]) -> None:
    for node, why_not in sorted(missing.items()):
        click.echo(f"no answer from node {node}: {why_not}", err=True)


@click.command()
@OUTPUT
@click.pass_context
@speaks
def status(context: click.Context, /, output: str, **given: Any) -> None:
    """Is everything enforced on every node? Exit code 0: all are ready, 1: one is not, or did not answer."""
    one = bool(given["on_node"])
    agents = _connect(given)
    got = agents.gathered("status", {})
    missing = dict(sorted(agents.missing.items()))
    if output == "json":
        rows = [{"node": node, **found} for node, found in got.results.items()]
        print_json([*rows, *({"node": node, "ready": False, "error": why_not} for node, why_not in missing.items())])
    elif one and got.results:
        (found,) = got.results.values()
        print_status(found)
    else:
        print_table(
            ("NODE", "READY", "VERSION", "KERNEL", "POLICIES", "IN KERNEL", "ENDPOINTS", "PROBLEMS"),
            [*(_row(node, found) for node, found in got.results.items()),
             *((node, "not ready", "", "", "", "", "", why_not) for node, why_not in missing.items())],
        )  # fmt: skip
        ready = sum(bool(found["ready"]) for found in got.results.values())
        print_line(f"{ready} of {len(got.results) + len(missing)} nodes are ready")
    context.exit(0 if not missing and all(found["ready"] for found in got.results.values()) else 1)


def _row(node: str, found: Mapping[str, Any]) -> tuple[object, ...]:
    current = found["revision"] == found["programmed"]
    return (
        node, "ready" if found["ready"] else "not ready", found["version"], found["kernel"], found["policies"],
        "current" if current else f"{found['programmed']} of {found['revision']}",
        ", ".join(f"{count} {state}" for state, count in found["endpoints"] if count) or "none",
        "; ".join(found["problems"]),
    )  # fmt: skip


status.params.extend(_options())


@click.command()
@OUTPUT
@click.pass_context
@speaks
def doctor(context: click.Context, /, output: str, **given: Any) -> None:
    """What do nodes that have an agent lack, and what is not held there? Exit code 1: something fails.

    `dagwall doctor` says it of one node, before anything is installed.
    """
    agents = _connect(given)
    got = agents.printed("doctor", "-o", "json")
    tell_missing(agents.missing)
    context.exit(doctors.show(got.results, agents.missing, output))


doctor.params.extend(_options())


@click.group(cls=Group, name="kubectl-dagwall", epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(__version__, "--version", message="kubectl-dagwall %(version)s")
def kubectl() -> None:
    """Dagwall's agents of all nodes, as `kubectl dagwall`: who talks to whom, what failed and why."""


@kubectl.group()
def policy() -> None:
    """Policies: are they valid, and what do they decide?"""


policy.add_command(copy.copy(check))
policy.add_command(of_cluster(explain_, "files", "config", *POLICY_NAMES))
for each in (status, doctor, *map(of_cluster, (flows, why, top, endpoints))):
    kubectl.add_command(each)
add_examples(kubectl, "kubectl dagwall")


def main() -> None:
    """The console script."""
    try:
        kubectl(prog_name="kubectl dagwall")
    except DagwallError as exc:
        raise SystemExit(f"Error: {exc}") from exc


if __name__ == "__main__":
    main()
