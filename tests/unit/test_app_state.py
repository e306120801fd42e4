"""The state folder: one owner, everything back as it was, and no guessing where it cannot be read."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from agent.app import state as state_module
from agent.app.state import State, StateFolder
from agent.errors import StateError
from agent.model.identity import FIRST_IDENTITY, Attestation, Claim, Identity, IdentityNumber, Kind, PodUid

IDENTITY = Identity("c", "etl", "worker", "finance_daily", "load", Kind.KUBERNETES_POD_OPERATOR, ambiguous=True)
CLAIM = Claim(
    identity=IDENTITY,
    labels=(("dag_id", "finance_daily"), ("team", "fin")),
    attestation=Attestation.BOUND,
    run_id="scheduled__2026-01-01T00:00:00+00:00",
    try_number="2",
    map_index="3",
    contradictions=("labels and annotations differ",),
)
STATE = State(numbers={IDENTITY: IdentityNumber(FIRST_IDENTITY + 5)}, claims={PodUid("u"): CLAIM}, complete=True)


def test_an_empty_folder_is_an_empty_state(tmp_path: Path) -> None:
    assert StateFolder(tmp_path / "new" / "folder").read() == State()


def test_what_is_written_is_read_by_the_next_owner(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)
    first.write(State())
    first.write(STATE)
    first.close()
    assert StateFolder(tmp_path).read() == STATE


def test_a_second_owner_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)
    for _ in range(2):
        with pytest.raises(StateError, match="another agent owns"):
            StateFolder(tmp_path)
    first.close()
    StateFolder(tmp_path).close()


def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    ready, held = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        folder = StateFolder(tmp_path)
        held.send(folder.read() == State())
        signal.pause()
    assert ready.recv()
    with pytest.raises(StateError):
        StateFolder(tmp_path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    StateFolder(tmp_path).close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\ufffd\x00",
        "[]",
        "null",
        '"x"',
        '{"version": 99}',
        "{}",
        '{"version": 1}',
        '{"version": 1, "complete": true, "numbers": 7, "claims": {}}',
        '{"version": 1, "complete": true, "numbers": [[{"cluster": "c"}, 1]], "claims": {}}',
        '{"version": 1, "complete": true, "numbers": [], "claims": {"u": {}}}',
        '{"version": 1, "complete": true, "numbers": [], "claims": []}',
    ],
)
def test_a_corrupted_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text, encoding="utf-8")
    with pytest.raises(StateError, match=r"state\.json"):
        StateFolder(tmp_path).read()


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StateError, match=r"state\.json"):
        StateFolder(tmp_path).read()


def steps() -> list[State]:
    """As an agent keeps them: pods come and go, a number gets another identity, a namespace another label."""
    r, out, number = Random(7), [State()], FIRST_IDENTITY
    for _ in range(60):
        numbers, claims, namespaces = dict(out[-1].numbers), dict(out[-1].claims), dict(out[-1].namespaces)
        identity = replace(IDENTITY, task_id=f"t{r.randrange(20)}")
        if r.random() < 0.3 and numbers:
            number = numbers.pop(r.choice(list(numbers)))
        numbers[identity] = IdentityNumber(number := number + 1)
        claims[PodUid(f"u{r.randrange(9)}")] = replace(CLAIM, identity=identity)
        claims.pop(PodUid(f"u{r.randrange(9)}"), None)
        namespaces[f"n{r.randrange(3)}"] = r.random() < 0.5
        out.append(State(numbers, claims, namespaces, complete=True))
    return out


def test_each_step_is_read_as_it_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MOST_LINES", 25)
    folder = StateFolder(tmp_path)
    for state in steps():
        folder.keep(state)
        folder.keep(replace(state))
        assert folder.read() == state
    assert len((tmp_path / "state.journal").read_bytes().splitlines()) < 25


def test_a_journal_that_outlived_its_file_says_nothing_new(tmp_path: Path) -> None:
    folder, states = StateFolder(tmp_path), steps()
    for state in states:
        folder.keep(state)
    journal = (tmp_path / "state.journal").read_bytes()
    folder.write(states[-1])
    (tmp_path / "state.journal").write_bytes(journal)
    assert folder.read() == states[-1]


def test_a_line_that_was_cut_short_was_never_kept(tmp_path: Path) -> None:
    folder, states = StateFolder(tmp_path), steps()
    folder.keep(states[0])
    folder.keep(states[1])
    with open(tmp_path / "state.journal", "ab") as file:
        file.write(b'{"numbers": [[{"clu')
    assert folder.read() == states[1]
    (tmp_path / "state.journal").write_bytes(b"{}\n")
    with pytest.raises(StateError, match=r"state\.journal: damaged"):
        folder.read()


def test_an_unfinished_write_is_never_read(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.write(STATE)
    (tmp_path / "state.new").write_text('{"version": 1, "com', encoding="utf-8")
    assert folder.read() == STATE
    folder.write(State(complete=True))
    assert folder.read() == State(complete=True)


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file"):
        StateFolder(tmp_path / "file")
