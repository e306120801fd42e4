"""Examples of each command, for its `--help` and its manual page."""

from __future__ import annotations

from collections.abc import Mapping

import click

Example = tuple[str, str]
"""A command line, and what it is for."""

EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "run": (
        ("dagwall run --node n1 --metrics 10.0.0.5:9990", "as daemonset.yaml does"),
        ("dagwall run --posture audit --files manifests", "on a folder of manifests, denying nothing"),
    ),
    "status": (
        ("dagwall status", "is everything enforced?"),
        ("dagwall status --node n1", "all that one node's agent says"),
        ("dagwall status -o json", "the same for a program"),
    ),
    "endpoints": (
        ("dagwall endpoints --state quarantined", "pods that may reach nothing"),
        ("dagwall endpoints -n airflow --dag 'finance_*'", "pods of some DAGs"),
    ),
    "identities": (("dagwall identities --dag sales", "exact totals of one DAG"),),
    "flows": (
        ("dagwall flows --verdict deny -f", "denials as they come"),
        ("dagwall flows --dag sales --since 1h --last 100", "who a DAG talked to"),
        ("dagwall flows --not --to-port 443 -o compact", "all that is not HTTPS"),
    ),
    "why": (
        ("dagwall why --dag sales", "why its calls failed, and what to do"),
        ("dagwall why --pod airflow/sales-load-x1 --since 1h", "of one pod, of the last hour"),
    ),
    "top": (
        ("dagwall top", "live, until Ctrl-C"),
        ("dagwall top --by task --sort denials", "tasks that are denied most"),
    ),
    "policy check": (
        ("dagwall policy check policies", "a folder, before it is applied"),
        ("kubectl get tnp -A -o yaml | dagwall policy check -", "what the cluster has"),
    ),
    "policy explain": (
        ("dagwall policy explain --dag sales --task load --to db/warehouse:5432", "which rule decides?"),
        ("dagwall policy explain -n airflow --dag sales --to 192.0.2.9:443 --files policies", "before it is applied"),
    ),
    "audit verify": (
        ("dagwall audit verify --public-key audit.pub audit.log", "has anything been changed?"),
    ),
    "audit report": (("dagwall audit report --dag sales --since 90d audit.log", "for an auditor"),),
    "rbac": (
        ("dagwall rbac", "who can act as which service account?"),
        ("dagwall rbac -n airflow --airflow-roles roles.json -o json", "of one namespace, with Airflow's roles"),
    ),
    "doctor": (
        ("dagwall doctor", "would it work?"),
        ("dagwall doctor --root host -o json", "where the host's files are mounted on ./host"),
    ),
    "detach": (("dagwall detach", "take everything off this node, when the agent has ended"),),
    "completion": (
        ('eval "$(dagwall completion bash)"', "in this shell"),
        ("dagwall completion zsh > ~/.zfunc/_dagwall", "for good"),
    ),
    "version": (("dagwall version", "what to name in a report"),),
}  # fmt: skip
"""By the words of the command."""


def add_examples(group: click.Group, typed: str, of: str = "") -> None:
    """To every command below, behind its options."""
    for name, command in group.commands.items():
        words = f"{of} {name}".strip()
        if isinstance(command, click.Group):
            add_examples(command, typed, words)
        elif examples := fitting(command, words, typed):
            command.epilog = epilog(examples)


def fitting(command: click.Command, words: str, typed: str) -> tuple[Example, ...]:
    """Of a command, as `typed` is called by: those whose options it has."""
    known = {option for parameter in command.params for option in parameter.opts}
    return tuple(
        (line.replace("dagwall ", f"{typed} ", 1), what)
        for line, what in EXAMPLES.get(words, ())
        if {word for word in line.split() if word.startswith("--")} <= known
    )


def epilog(examples: tuple[Example, ...]) -> str:
    """\\b keeps click from filling the lines."""
    lines = (f"  {line}\n      {what}" for line, what in examples)
    return "\n".join(("\b", "Examples:", *lines))
