"""The state folder: one owner, everything back as it was, and no guessing where it cannot be read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from agent.errors import StateError
from agent.model.identity import FIRST_IDENTITY, Attestation, Claim, Identity, IdentityNumber, Kind, PodUid
from agent.node.state import State, StateChange, StateFolder, boot_id

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


def test_the_next_owner_reads_what_was_kept(tmp_path: Path) -> None:
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
        ("INSERT INTO numbers VALUES ('{}', 1, 5)", "not as it was written"),
        ("UPDATE numbers SET number = number + 1", "not as it was written"),
        ("UPDATE namespaces SET managed = 0", "not as it was written"),
        ("UPDATE facts SET value = 0 WHERE name = 'complete'", "not as it was written"),
        ("DROP TABLE claims", "lacks claims"),
    ],
)
def test_a_damaged_state_is_read_as_far_as_possible(tmp_path: Path, sql: str, says: str) -> None:
    first = StateFolder(tmp_path)
    first.keep(replace(CHANGE, namespaces={"etl": True}))
    first.close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as database, database:
        database.execute(sql)
    again = StateFolder(tmp_path)
    found = again.read()
    assert any(says in text for text in found.damage)
    assert found.namespaces in ({}, {"etl": True}), "never another answer than was written"
    assert found.numbers in ({}, STATE.numbers)
    assert found.claims in ({}, STATE.claims)
    again.keep(CHANGE)
    assert again.read().numbers == STATE.numbers
    again.close()


def test_an_unreadable_row_is_left_out(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.keep(CHANGE)
    folder._db.write([("claims", ("v", "{}")), ("claims", ("w", "{")), ("numbers", ("7", 1)), ("numbers", ("{}", 2))])
    found = folder.read()
    assert (found.claims, found.numbers, len(found.damage)) == (STATE.claims, STATE.numbers, 4)


def test_bit_errors_never_become_another_state(tmp_path: Path) -> None:
    """Each byte of a file that was written cleanly, one at a time."""
    first = StateFolder(tmp_path)
    first.keep(replace(CHANGE, namespaces={"etl": True}))
    first.close()
    whole, r = (tmp_path / "state.db").read_bytes(), Random(3)
    for number in range(300):
        at, bit = r.randrange(len(whole)), 1 << r.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "state.db").write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        again = StateFolder(folder)
        found = again.read()
        assert found.numbers in ({}, STATE.numbers)
        assert found.claims in ({}, STATE.claims)
        assert found.namespaces in ({}, {"etl": True})
        assert found.damage or found == replace(STATE, boot=boot_id(), namespaces={"etl": True}), at
        again.close()


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe\x00" * 99])
def test_a_file_that_is_not_a_database_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.db").write_bytes(content)
    folder = StateFolder(tmp_path)
    assert "file is not a database" in folder.read().damage[0]
    folder.keep(CHANGE)
    folder.close()
    assert StateFolder(tmp_path).read() == replace(STATE, boot=boot_id())
    assert (tmp_path / "state.db.damaged").read_bytes() == content


@pytest.mark.parametrize(
    ("make", "says"), [(Path.touch, "is empty"), (os.mkfifo, "is no file"), (Path.mkdir, "is no file")]
)
def test_an_unreadable_state_is_no_first_boot(tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    """A node that has lost its state must not take unknown pods for those of a first boot (L5); and nothing hangs."""
    make(tmp_path / "state.db")
    folder = StateFolder(tmp_path)
    assert says in folder.read().damage[0]
    folder.close()
    assert StateFolder(tmp_path).read().damage == ()


def test_a_state_of_the_release_before_is_taken_over(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)
    first.keep(CHANGE)
    first.close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as database, database:
        for table in ("numbers", "claims", "namespaces", "facts"):
            database.execute(f"ALTER TABLE {table} DROP COLUMN crc")
        database.execute("PRAGMA user_version = 1")
    assert StateFolder(tmp_path).read() == replace(STATE, boot=boot_id())


def test_a_full_disk_at_the_start_does_not_end_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = StateFolder(tmp_path)
    first.keep(CHANGE)
    first.close()

    def full(*_: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as without:
        without.setattr("agent.node.state_db.StateDb._opened", full)
        folder = StateFolder(tmp_path)
        found = folder.read()
        assert (found.numbers, found.claims) == (STATE.numbers, STATE.claims)
        assert "disk is full" in found.damage[0]
        with pytest.raises(StateError, match="disk is full"):
            folder.keep(StateChange(claims={PodUid("v"): CLAIM}))
    folder.keep(StateChange())
    assert set(folder.read().claims) == {"u", "v"}


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


def test_an_unchanged_state_is_not_written(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.keep(CHANGE)
    written = (tmp_path / "state.db-wal").stat().st_size
    for _ in range(100):
        folder.keep(StateChange(complete=True, admitted=STATE.admitted))
    assert (tmp_path / "state.db-wal").stat().st_size == written


def test_a_full_disk_is_an_error_and_nothing_is_lost_when_there_is_room_again(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    database = folder._db._db
    assert database is not None
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    many = {PodUid(f"u{i}"): CLAIM for i in range(100)}
    with pytest.raises(StateError, match=r"state\.db: database or disk is full"):
        folder.keep(StateChange(claims=many))
    assert folder.read().claims == {}
    database.execute("PRAGMA max_page_count = 10000")
    folder.keep(StateChange(claims={PodUid("u7"): None}))
    assert folder.read().claims == {uid: claim for uid, claim in many.items() if uid != "u7"}


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file"):
        StateFolder(tmp_path / "file")
