"""First contact: each command's help has examples that are valid, shells complete, manual pages can be read."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.cli.examples import EXAMPLES, fitting
from agent.cli.kubectl import kubectl
from scripts import man

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, of: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        words = f"{of} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, words)
        elif not command.hidden:
            yield words, command


ALL = [
    pytest.param(typed, group, words, command, id=f"{typed} {words}")
    for typed, group in (("dagwall", main), ("kubectl dagwall", kubectl))
    for words, command in commands(group)
]


@pytest.mark.parametrize(("typed", "group", "words", "command"), ALL)
def test_help_has_examples(typed: str, group: click.Group, words: str, command: click.Command) -> None:
    said = CliRunner().invoke(group, [*words.split(), "--help"]).output
    assert "Examples:" in said
    assert f"{typed} {words}" in said.partition("Examples:")[2]


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the files are that examples name."""
    monkeypatch.chdir(tmp_path)
    for name in ("policies", "manifests", "host"):
        (tmp_path / name).mkdir()
    (tmp_path / "roles.json").touch()


@pytest.mark.parametrize(("typed", "group", "words", "command"), ALL)
def test_every_example_is_what_the_command_takes(
    typed: str, group: click.Group, words: str, command: click.Command, in_folder: None
) -> None:
    """Parsed, and not carried out."""
    examples = fitting(command, words, typed)
    assert examples
    for line, what in examples:
        assert what
        line_ = line.removeprefix('eval "$(').removesuffix(')"').rpartition("| ")[2].partition(" > ")[0]
        assert line_.startswith(f"{typed} {words}")
        command.make_context(words, shlex.split(line_.removeprefix(f"{typed} {words}")))


def test_there_are_examples_of_commands_only() -> None:
    assert {words for words, _ in commands(main)} == set(EXAMPLES)


def test_an_option_that_a_command_lacks_is_in_no_example() -> None:
    lines = [line for line, _ in fitting(kubectl.commands["policy"].commands["explain"], "policy explain", "x")]  # type: ignore[attr-defined]
    assert lines
    assert not any("--files" in line for line in lines)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """With a `dagwall` in it, as pip makes one."""
    program = tmp_path / "dagwall"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom agent.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("words", "offered"),
    [("dagwall flo", {"flows"}), ("dagwall policy ", {"check", "explain"}), ("dagwall flows --verdict d", {"deny"}),
     ("dagwall why --sin", {"--since"}), ("dagwall as", set())],
)  # fmt: skip
def test_bash_completes(words: str, offered: set[str], path: str) -> None:
    """As bash does at a Tab: the words so far, and which of them is completed."""
    parts = words.split(" ")
    script = f"""
    eval "$(dagwall completion bash)"
    COMP_WORDS=({" ".join(shlex.quote(part) for part in parts)}) COMP_CWORD={len(parts) - 1}
    _dagwall_completion dagwall
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.parametrize(
    ("shell", "part"), [("bash", "complete -o nosort"), ("zsh", "compdef"), ("fish", "complete")]
)
def test_each_shell_has_its_script(shell: str, part: str) -> None:
    said = CliRunner().invoke(main, ["completion", shell]).output
    assert part in said
    assert "_DAGWALL_COMPLETE" in said


def test_another_shell_is_refused_by_name() -> None:
    refused = CliRunner().invoke(main, ["completion", "tcsh"])
    assert refused.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in refused.output


@pytest.mark.parametrize(("name", "group"), [("dagwall", main), ("kubectl-dagwall", kubectl)])
def test_manual_pages_have_every_command_and_option(name: str, group: click.Group) -> None:
    text = man.texts()[man.FOLDER / f"{name}.1"].replace("\\-", "-")
    for words, command in commands(group):
        section = text.partition(f".SS {name.replace('-', ' ')} {words}\n")[2].partition("\n.SS ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in section, (words, parameter.opts)


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
@pytest.mark.parametrize("name", ["dagwall", "kubectl-dagwall"])
def test_manual_pages_are_valid(name: str) -> None:
    page = ROOT / man.FOLDER / f"{name}.1"
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(page)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_of_a_text_is_a_request_of_troff() -> None:
    assert man._roff(".so /etc/passwd\n'x \\fB a-b `c`") == "\\&.so /etc/passwd\n\\(aqx \\efB a\\-b \\(gac\\(ga"
