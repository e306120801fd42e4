"""The state folder: one owner, everything back as it was, and no guessing where it cannot be read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from agent.app.state import State, StateChange, StateFolder, boot_id
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
STATE = State(
    numbers={IDENTITY: IdentityNumber(FIRST_IDENTITY + 5)},
    claims={PodUid("u"): CLAIM},
    complete=True,
    admitted={"TaskNetworkPolicy/etl/p": "d1"},
)
CHANGE = StateChange(numbers=STATE.numbers, claims=STATE.claims, complete=True, admitted=STATE.admitted)


def test_an_empty_folder_is_an_empty_state(tmp_path: Path) -> None:
    assert StateFolder(tmp_path / "new" / "folder").read() == State()


def test_what_is_kept_is_read_by_the_next_owner(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)
    first.keep(CHANGE)
    first.close()
    assert StateFolder(tmp_path).read() == replace(STATE, boot=boot_id())


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
    ("sql", "says"),
    [
        ("PRAGMA user_version = 99", "another version"),
        ("INSERT INTO numbers VALUES ('{}', 1)", "damaged"),
        ("INSERT INTO numbers VALUES ('7', 1)", "damaged"),
        ('INSERT INTO numbers VALUES (\'{"cluster": "c"}\', 1)', "damaged"),
        ("INSERT INTO claims VALUES ('u', '{')", "damaged"),
        ("INSERT INTO claims VALUES ('u', '{}')", "damaged"),
        ("DROP TABLE claims", "no such table: claims"),
    ],
)
def test_a_damaged_state_is_an_error_that_names_it(tmp_path: Path, sql: str, says: str) -> None:
    StateFolder(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as database, database:
        database.execute(sql)
    with pytest.raises(StateError, match=rf"state\.db: .*{says}"):
        StateFolder(tmp_path).read()


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe\x00" * 99])
def test_a_file_that_is_no_database_is_an_error_and_lets_go(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.db").write_bytes(content)
    for _ in range(2):
        with pytest.raises(StateError, match=r"state\.db: file is not a database"):
            StateFolder(tmp_path)


def steps() -> Iterator[tuple[StateChange, State]]:
    """As an agent keeps them: pods come and go, a number gets another identity, a namespace another label."""
    r, now, number = Random(7), State(complete=True), FIRST_IDENTITY
    for _ in range(60):
        numbers: dict[Identity, IdentityNumber | None] = {}
        claims: dict[PodUid, Claim | None] = {}
        identity = replace(IDENTITY, task_id=f"t{r.randrange(20)}")
        if r.random() < 0.3 and now.numbers:
            numbers[r.choice(list(now.numbers))] = None
        numbers[identity] = IdentityNumber(number := number + 1)
        claims[PodUid(f"u{r.randrange(9)}")] = replace(CLAIM, identity=identity)
        claims[PodUid(f"u{r.randrange(9)}")] = None
        namespaces = now.namespaces | {f"n{r.randrange(3)}": r.random() < 0.5}
        now = State(
            {i: n for i, n in (now.numbers | numbers).items() if n is not None},
            {u: c for u, c in (now.claims | claims).items() if c is not None},
            namespaces,
            complete=True,
        )
        yield StateChange(numbers, claims, namespaces, complete=True), now


def test_each_step_is_read_as_it_was_kept_by_a_process_that_was_killed(tmp_path: Path) -> None:
    for change, state in steps():
        pid = os.fork()
        if pid == 0:
            StateFolder(tmp_path).keep(change)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        folder = StateFolder(tmp_path)
        assert replace(folder.read(), boot="") == state
        folder.close()


def test_what_is_the_same_is_not_written(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.keep(CHANGE)
    written = (tmp_path / "state.db-wal").stat().st_size
    for _ in range(100):
        folder.keep(StateChange(complete=True, admitted=STATE.admitted))
    assert (tmp_path / "state.db-wal").stat().st_size == written


def test_a_full_disk_is_an_error_and_nothing_is_lost_when_there_is_room_again(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    (pages,) = folder._db.execute("PRAGMA page_count").fetchone()
    folder._db.execute(f"PRAGMA max_page_count = {pages}")
    many = {PodUid(f"u{i}"): CLAIM for i in range(100)}
    with pytest.raises(StateError, match=r"state\.db: database or disk is full"):
        folder.keep(StateChange(claims=many))
    assert folder.read().claims == {}
    folder._db.execute("PRAGMA max_page_count = 10000")
    folder.keep(StateChange(claims={PodUid("u7"): None}))
    assert folder.read().claims == {uid: claim for uid, claim in many.items() if uid != "u7"}


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file"):
        StateFolder(tmp_path / "file")
