"""`dagwall policy`: check manifests, explain decisions."""

from __future__ import annotations

import socket as sockets
from collections.abc import Iterator
from dataclasses import asdict, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from agent.cli import asking
from agent.cli.advice import advise
from agent.cli.offline import Offline, load
from agent.cli.read import SOCKET
from agent.cli.run import policy_options, take_policy_flags
from agent.cli.settings import PolicySettings, read_settings
from agent.cli.show import OUTPUT, print_json, print_line, speaks
from agent.errors import DagwallError, InvalidObject
from agent.model.policy import StartTls
from agent.model.verdict import Direction
from agent.outputs.explain import Question, explain
from agent.outputs.plain import plain
from agent.parse.objects import ObjectName
from agent.parse.peers import PROTOCOLS
from agent.sources.update import Problem
from agent.text import printable

DENIED = 3
_PROTOCOLS = {name.upper() for name in PROTOCOLS}


@click.group()
def policy() -> None:
    """Policies: are they valid, and what do they decide?"""


def _settings(given: dict[str, Any]) -> PolicySettings:
    flags = take_policy_flags(given)
    try:
        return read_settings(given.pop("config"), flags)
    except InvalidObject as exc:
        raise click.UsageError(printable(str(exc))) from exc


@policy.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, allow_dash=True))
@policy_options
@OUTPUT
@click.pass_context
@speaks
def check(context: click.Context, /, files: tuple[Path, ...], output: str, **given: Any) -> None:
    """Are these manifests valid? Exit code 1 on errors; warnings are about what is valid and may surprise.

    FILES are files, folders with everything below them, or - for standard input.
    """
    found = load(files, _settings(given))
    if not found.files and not found.problems:
        asked = ", ".join(str(file) for file in files)
        raise DagwallError(f"{asked}: holds no object: looked for *.yaml, *.yml and *.json")
    cluster = found.cluster
    counts = {
        "policies": len(cluster.policies), "network_policies": len(cluster.network_policies),
        "bindings": len(cluster.bindings),
    }  # fmt: skip
    errors = [_error(found, problem) for problem in found.problems]
    warnings = list(_warnings(found))
    if output == "json":
        print_json({**counts, "errors": errors, "warnings": warnings, "notes": list(found.skipped)})
    else:
        for word, rows in (("error", errors), ("warning", warnings)):
            for row in rows:
                print_line(f"{row['place']}:", word, _sentence(row))
        for text in found.skipped:
            print_line("note:", text)
        told = ", ".join(
            f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count or name == "policies"
        )
        click.echo(f"{told}, {len(errors)} errors, {len(warnings)} warnings")
    context.exit(1 if errors else 0)


def _error(found: Offline, problem: Problem) -> dict[str, str]:
    error = problem.error
    return {"place": found.place_of(problem), "object": error.obj, "field": error.field, "problem": error.problem}


def _warnings(found: Offline) -> Iterator[dict[str, str]]:
    for warning in advise(found.cluster, found.files.keys()):
        name = ObjectName(warning.policy.kind, warning.policy.namespace, warning.policy.name)
        yield _warning(found, name, warning.field, warning.text)
    for suspect in found.suspects:
        yield _warning(found, suspect.name, suspect.field, suspect.text)
    counted = (found.cluster.policies, found.cluster.network_policies, found.cluster.bindings)
    if not any(counted) and not found.problems:
        place = next(iter(found.contents), "?")
        yield {"place": place, "object": "", "field": "", "problem": "no policy and no binding is among these files"}


def _warning(found: Offline, name: ObjectName, field: str, text: str) -> dict[str, str]:
    return {"place": found.place(name, field), "object": str(name), "field": field, "problem": text}


def _sentence(row: dict[str, str]) -> str:
    """An error about a file as a whole has named it already."""
    named = [] if row["place"].startswith(row["object"].partition(":")[0] or "?") else [row["object"]]
    named = [name for name in named if name]
    return ": ".join([*named, *([row["field"]] if row["field"] else []), row["problem"]])


@policy.command("explain")
@click.option("--dag", default="", help="DAG id of the task.")
@click.option("--task", default="", help="Task id.")
@click.option("--pod", default="", help="Or a pod, NAME or NAMESPACE/NAME.")
@click.option("-n", "--namespace", default="", help="Of the task or pod.")
@click.option("--service-account", default="", help="Of the task.  [default: those of the pods known, or default]")
@click.option(
    "--to",
    "target",
    metavar="HOST:PORT[/PROTO]",
    help="HOST: address, DNS name, NAMESPACE/SERVICE, pod:NAMESPACE/NAME.",
)
@click.option("--server-name", default="", help="That the task would ask for in its TLS hello (SNI).")
@click.option(
    "--start-tls", type=click.Choice(["", *(each.value for each in StartTls)]), default="", show_choices=False,
    help="How it would ask for TLS before its hello: postgres.",
)  # fmt: skip
@click.option("--http", default="", help="A request that it would send: 'GET http://HOST/PATH', 'CONNECT HOST:PORT'.")
@click.option("--from", "source", metavar="HOST", help="Ingress instead: who opens; --to is then :PORT[/PROTO].")
@click.option(
    "--files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Manifests to decide by, instead of a running agent; can be repeated.",
)
@policy_options
@SOCKET
@OUTPUT
@click.pass_context
@speaks
def explain_(  # noqa: PLR0917  click gives them by name
    context: click.Context, /, target: str | None, source: str | None, files: tuple[Path, ...], socket: Path,
    output: str, **given: Any,
) -> None:  # fmt: skip
    """Which rule decides, and why? Exit code 0: allowed, 3: at least one way is denied."""
    read = _settings(given)
    if not (given["pod"] or given["dag"] or given["namespace"]):
        raise click.UsageError("name the pods: --dag (and --task), --pod, or --namespace")
    questions = questions_of(target, source, Question("", **given))
    if files:
        cluster = load(files, read).cluster
        answers = [plain(answer) for question in questions for answer in explain(cluster, question)]
    else:
        client = asking.agent(socket)
        answers = [answer for question in questions for answer in client.ask("explain", **_fields(question))]
    if output == "json":
        print_json(answers)
    else:
        for answer in answers:
            _print(answer)
    context.exit(DENIED if any(answer["verdict"] == "deny" for answer in answers) else 0)


def questions_of(target: str | None, source: str | None, who: Question) -> list[Question]:
    """One for each address that a DNS name has here; everything else is the cluster's to resolve."""
    host, port, protocol = split_target(target or "")
    host = source or host
    if not host:
        raise click.UsageError("--to: must be HOST:PORT or HOST:PORT/PROTO, such as 192.0.2.9:5432 or 10.0.0.1/ICMP")
    direction = Direction.INGRESS if source else Direction.EGRESS
    base = replace(who, port=port, protocol=protocol, direction=direction)
    name = "" if "/" in host or _is_address(host) else host
    return [replace(base, host=address, name=name) for address in _hosts(host)]


def split_target(text: str) -> tuple[str, int, str]:
    """Host, port (0 where none is given) and protocol of `HOST[:PORT][/PROTO]`; IPv6 with or without brackets."""
    rest, slash, last = text.rpartition("/")
    is_protocol = bool(slash) and (last.upper() in _PROTOCOLS or last.isdecimal())
    rest, protocol = (rest, last) if is_protocol else (text, "TCP")
    host, _, port = rest.rpartition(":")
    if not port.isdecimal() or (":" in host and not host.startswith(("[", "pod:"))):
        host, port = rest, "0"
    return host.removeprefix("[").removesuffix("]"), min(int(port), 65536), protocol


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _hosts(host: str) -> list[str]:
    if _is_address(host):
        return [str(ip_address(host))]
    if "/" in host:
        return [host]
    try:
        found = sockets.getaddrinfo(host, None, type=sockets.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise DagwallError(f"--to: {host} has no address here: {exc}") from exc
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _fields(question: Question) -> dict[str, Any]:
    return asdict(question) | {"direction": question.direction.name.lower()}


def _print(answer: dict[str, Any]) -> None:
    who = answer["identity"] + (f" (pod {answer['pod']})" if answer["pod"] else " (no pod of it is known)")
    other = ("at the other end,",) if answer.get("end") == "other" else ()
    print_line(answer["verdict"], *other, who)
    print_line(f"  {answer['text']}")
    for title, rules in (("deny rules that match", "denying"), ("allow rules that match", "allowing")):
        if answer[rules]:
            print_line(f"  {title}: {', '.join(answer[rules])}")
