"""`dagwall audit`: is the audit log what was written, and what does it say? Reads files; asks no agent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.flows import SINCE, UNTIL
from agent.cli.read import who
from agent.cli.show import OUTPUT, print_heading, print_json, print_line, print_table, speaks
from agent.outputs.audit.report import DENIED_BY, Report, Wanted
from agent.outputs.audit.report import report as made_report

if TYPE_CHECKING:
    from agent.outputs.audit.chain import Head

LOG = click.argument("log", type=click.Path(path_type=Path))


def _head(_: click.Context, __: click.Parameter, value: str) -> Head | None:
    from agent.outputs.audit.chain import Head  # noqa: PLC0415  cryptography: `dagwall run` loads this file too

    if not value:
        return None
    seq, _sep, digest = value.partition(":")
    if not seq.isdigit() or len(digest) != 64:
        raise click.BadParameter("must be SEQ:HASH, as the agent's log has it (event audit.head)")
    return Head(int(seq), digest)


@click.group()
def audit() -> None:
    """The audit log: has anything been changed, and what does it say?"""


@audit.command()
@LOG
@click.option(
    "--public-key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    help="PEM of the key that signed it (audit.key in the agent's log); can be repeated.",
)
@click.option("--head", default="", callback=_head, metavar="SEQ:HASH", help="A head that was kept elsewhere.")
@OUTPUT
@click.pass_context
@speaks
def verify(context: click.Context, log: Path, keys: tuple[Path, ...], head: Head | None, output: str) -> None:
    """Exit code 0: nothing was changed; 1: it was, and where; 3: none was found, but not all can be vouched for."""
    from agent.outputs.audit.keys import public_keys  # noqa: PLC0415  as above
    from agent.outputs.audit.verify import verify as verified  # noqa: PLC0415  as above

    found = verified(log, public_keys(keys), head)
    if output == "json":
        print_json(
            {"records": found.records, "first": found.first, "last": found.head.seq, "hash": found.head.hash,
             "signed_through": found.signed, "problems": found.problems, "doubts": found.doubts}
        )  # fmt: skip
    else:
        for kind, texts in (("error", found.problems), ("warning", found.doubts)):
            for text in texts:
                print_line(kind, text)
        signed = f", signed through {found.signed}" if keys else ""
        click.echo(f"records {found.first} to {found.head.seq} are {'broken' if found.problems else 'whole'}{signed}")
    context.exit(1 if found.problems else 3 if found.doubts else 0)


@audit.command()
@LOG
@who
@SINCE
@UNTIL
@OUTPUT
@speaks
def report(log: Path, output: str, **wanted: Any) -> None:
    """Who could reach what, what was denied, which policies were changed by whom. Verify the log first."""
    found = made_report(_records(log), Wanted(**wanted))
    if output == "json":
        print_json(_as_json(found))
    else:
        _print(found)


def _records(log: Path) -> Iterator[dict[str, Any]]:
    from agent.outputs.audit.verify import lines_of  # noqa: PLC0415  as above

    for _, line, ended in lines_of(log):
        try:
            record = json.loads(line) if ended else None
        except ValueError:
            continue  # what `verify` tells
        if isinstance(record, dict) and "time" in record:
            yield record


def _as_json(found: Report) -> dict[str, Any]:
    return {
        "identities": found.identities,
        "reachable": [{"policy": policy, "rule": rule, "says": said} for policy, rule, said in found.reachable()],
        "denied": [
            {**dict(zip(DENIED_BY, key, strict=True)), "count": each.count, "first": each.first, "last": each.last}
            for key, each in found.denied.items()
        ],
        "policies": found.policies,
        "others": found.others,
    }  # fmt: skip


def _print(found: Report) -> None:
    print_heading("Who ran")
    ran = ("time", "namespace", "pod", "identity", "attestation")
    rows = [[*(r[name] for name in ran), " ".join(r["policies"])] for r in found.identities]
    print_table(("TIME", "NAMESPACE", "POD", "IDENTITY", "CLAIM IS", "POLICIES"), rows)
    print_heading("\nWhat the policies that selected them say")
    print_table(("POLICY", "RULE", "SAYS"), [(p, rule, json.dumps(said)) for p, rule, said in found.reachable()])
    print_heading("\nWhat was denied, or would have been")
    print_table(
        ("COUNT", "VERDICT", "TASK", "DIRECTION", "PEER", "PORT", "REASON", "RULE", "FIRST", "LAST"),
        [
            (each.count, key[0], "/".join(key[1:5]), *key[5:7], f"{key[8]}/{key[7]}", *key[9:], each.first, each.last)
            for key, each in found.denied.items()
        ],
    )
    print_heading("\nChanges of policies")
    changed = ("time", "policy", "change", "manager", "resource_version")
    rows = [[*(r[name] or "unknown" for name in changed), _rules(r)] for r in found.policies]
    print_table(("TIME", "POLICY", "CHANGE", "BY", "VERSION", "RULES"), rows)
    print_heading("\nThe agent and its log")
    said = [(r["time"], r["node"], r["kind"], _else(r)) for r in found.others]
    print_table(("TIME", "NODE", "KIND", "WHAT"), said)


def _rules(record: Mapping[str, Any]) -> str:
    return " ".join(each["rule"] for each in record.get("rules", ()))


def _else(record: Mapping[str, Any]) -> str:
    shown = ("time", "kind", "node", "seq", "prev", "sig", "key")
    return json.dumps({name: value for name, value in record.items() if name not in shown})
