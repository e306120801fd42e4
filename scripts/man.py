"""Manual pages of docs/man, from the commands' own help texts; `make manifests` writes them.

Source: man-pages(7), groff_man(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from agent.cli.examples import fitting
from agent.cli.kubectl import kubectl
from agent.cli.main import main

FOLDER = Path("docs/man")
_PAGES = (("dagwall", main), ("kubectl-dagwall", kubectl))
_TYPED = {"kubectl-dagwall": "kubectl dagwall"}
"""What people type, where that is not the program's name."""


def texts() -> dict[Path, str]:
    """Contents by path from the project's root."""
    return {FOLDER / f"{name}.1": "\n".join(_page(name, group)) + "\n" for name, group in _PAGES}


def _page(name: str, group: click.Group) -> Iterator[str]:
    typed, about = _TYPED.get(name, name), _plain(group.help or "")
    yield f'.\\" Made by `make manifests` from the texts of `{typed} --help`.'
    yield f'.TH {_roff(name.upper())} 1 "" dagwall "User Commands"'
    yield from (".SH NAME", f"{_roff(name)} \\- {_roff(about.split('.')[0])}")
    yield from (".SH SYNOPSIS", f".B {_roff(typed)}", "COMMAND [OPTIONS] [ARGUMENTS]")
    yield from (".SH DESCRIPTION", _roff(about), ".SH COMMANDS")
    for words, command in _commands(group):
        yield from _command(typed, words, command)
    yield from (".SH EXIT STATUS", _roff(_plain(group.epilog or "").removeprefix("Exit codes: ")))


def _commands(group: click.Group, of: str = "") -> Iterator[tuple[str, click.Command]]:
    """With the words by which they are called; hidden ones left out."""
    for name, command in sorted(group.commands.items()):
        words = f"{of} {name}".strip()
        if isinstance(command, click.Group):
            yield from _commands(command, words)
        elif not command.hidden:
            yield words, command


def _command(typed: str, words: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"{typed} {words}")
    yield f".SS {_roff(f'{typed} {words}')}"
    yield _roff(f"{typed} {words} {' '.join(command.collect_usage_pieces(context))}")
    for paragraph in _plain(command.help or "", keep="\n\n").split("\n\n"):
        yield from (".PP", _roff(paragraph))
    for option in command.params:
        record = option.get_help_record(context)
        if record is not None and isinstance(option, click.Option):
            yield from (".TP", f"\\fB{_roff(record[0])}\\fR", _roff(_plain(record[1])) or "\\&")
    for line, what in fitting(command, words, typed):
        yield from (".PP", _roff(f"{what[0].upper()}{what[1:]}:"), ".PP", ".nf", f".RS\n{_roff(line)}\n.RE", ".fi")


def _plain(text: str, keep: str = "") -> str:
    """Filled again by whoever shows it; paragraphs stay apart where they are kept."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\b", ""))
    filled = [" ".join(paragraph.split()) for paragraph in paragraphs]
    return (keep or " ").join(filled).strip()


def _roff(text: str) -> str:
    """Text as it stands: no sign of it is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)
