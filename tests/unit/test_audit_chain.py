"""Every kind of tampering is found, whoever holds no key; what a killed agent leaves is told apart from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import DagwallError
from agent.outputs.audit.chain import Head, Signer, canonical, digest, key_id, link
from agent.outputs.audit.journal import Journal
from agent.outputs.audit.keys import public_keys, signer
from agent.outputs.audit.verify import Verdict, verify

SIGNER = Signer(Ed25519PrivateKey.generate())
KEYS = {SIGNER.key_id: SIGNER.key.public_key()}
RECORDS = int(os.environ.get("AUDIT_RECORDS", "20000"))
"""AUDIT_RECORDS=1000000: as many as a busy year has."""


def written(path: Path, batches: int = 4, size: int = 5, **how: Any) -> Journal:
    journal = Journal(path, SIGNER, **how)
    journal.resume()
    for batch in range(batches):
        append(journal, [{"kind": "denial", "batch": batch, "n": n} for n in range(size)])
    return journal


def append(journal: Journal, records: list[dict[str, Any]]) -> None:
    """As the log does."""
    if journal.full:
        if gone := journal.leaving():
            journal.append([{"kind": "rotated", "gone_through": gone}])
        journal.rotate()
    journal.append(records)


def check(path: Path, expected: Head | None = None) -> Verdict:
    return verify(path, KEYS, expected)


def test_what_was_written_is_whole(tmp_path: Path) -> None:
    journal = written(tmp_path / "a")
    found = check(tmp_path / "a")
    assert (found.records, found.first, found.head, found.signed) == (20, 1, journal.head, 20)
    assert (found.problems, found.doubts) == ((), ())
    assert check(tmp_path / "a", journal.head).problems == ()


Tampering = Callable[[list[bytes]], list[bytes]]


def edited(lines: list[bytes]) -> list[bytes]:
    return [*lines[:7], lines[7].replace(b'"n":2', b'"n":9'), *lines[8:]]


def resealed(lines: list[bytes]) -> list[bytes]:
    """An edit by somebody who can hash: all lines after it have the right `prev`, and the old signatures."""
    records = [json.loads(line) for line in edited(lines)]
    head, out = Head(), []
    for record in records:
        record.pop("prev")
        head, line = link(head, record)
        out.append(line)
    return out


def forged_tail(lines: list[bytes]) -> list[bytes]:
    head = Head(20, digest(lines[-1].strip()))
    return [*lines, link(head, {"kind": "denial", "forged": True})[1]]


def forged_and_signed(lines: list[bytes]) -> list[bytes]:
    """With a key of one's own, under the name of the right one."""
    head = Head(20, digest(lines[-1].strip()))
    record = json.loads(link(head, {"kind": "denial"})[1])
    return [*lines, canonical({**Signer(Ed25519PrivateKey.generate()).sign(record), "key": SIGNER.key_id}) + b"\n"]


TAMPERINGS: list[tuple[str, Tampering, str]] = [
    ("an edit", edited, ":9: record 9 does not follow record 8: one of them was edited"),
    ("an edit with new hashes", resealed, ":10: the signature of record 10 is wrong: forged"),
    ("a cut in the middle", lambda lines: [*lines[:7], *lines[9:]], ":8: record 10 comes after 7: 2 records were cut out"),
    ("a cut at the beginning", lambda lines: lines[3:], ":1: the log begins with record 4, and no rotation has told"),
    ("two in another order", lambda lines: [*lines[:7], lines[8], lines[7], *lines[9:]], ":8: record 9 comes after 7"),
    ("one twice", lambda lines: [*lines[:8], lines[7], *lines[8:]], ":9: record 8 comes after 8: reordered, repeated or put in"),
    ("one put in", lambda lines: [*lines[:8], b'{"kind":"x","seq":9}\n', *lines[8:]], ":9: record 9 does not follow record 8"),
    ("text put in", lambda lines: [*lines[:8], b"text\n", *lines[8:]], ":9: no record, and no agent has told that"),
    ("another form of the same", lambda lines: [*lines[:8], lines[8].replace(b":", b": ", 1), *lines[9:]],
     ":9: no record, and no agent has told that"),
    ("truncated in a batch", lambda lines: lines[:18], ":16: the records from here to 18 are not signed: a forged tail"),
    ("truncated at a batch", lambda lines: lines[:15], "the log ends with record 15, and the head that was kept is 20"),
    ("truncated in a line", lambda lines: [*lines[:17], lines[17][:20]], ":16: the records from here to 17 are not signed"),
    ("all gone", lambda _: [], "the log ends with record 0, and the head that was kept is 20: truncated"),
    ("a forged tail", forged_tail, ":21: the records from here to 21 are not signed: a forged tail"),
    ("a forged tail with a signature", forged_and_signed, ":21: the signature of record 21 is wrong: forged"),
    ("one in place of the last", lambda lines: [*lines[:19], canonical({**json.loads(lines[19]), "n": 7}) + b"\n"],
     ":20: record 20 is not the one of the head that was kept"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "why"), [each[1:] for each in TAMPERINGS], ids=[each[0] for each in TAMPERINGS])
def test_tampering_is_found(tmp_path: Path, how: Tampering, why: str) -> None:
    path = tmp_path / "a"
    head = written(path).head
    path.write_bytes(b"".join(how(path.read_bytes().splitlines(keepends=True))))
    problems = check(path, head).problems
    assert problems, "nothing was found"
    assert why in problems[0]


@pytest.mark.parametrize("changed", range(0, 2600, 97))
def test_not_one_sign_can_be_changed(tmp_path: Path, changed: int) -> None:
    path = tmp_path / "a"
    written(path)
    data = bytearray(path.read_bytes())
    data[changed % len(data)] ^= 1
    path.write_bytes(data)
    assert check(path).problems


def test_a_key_that_was_not_given_signs_nothing(tmp_path: Path) -> None:
    written(tmp_path / "a")
    other = Ed25519PrivateKey.generate().public_key()
    (problem,) = verify(tmp_path / "a", {key_id(other): other}).problems
    assert f"is signed with key {SIGNER.key_id}, which was not given" in problem
    found = verify(tmp_path / "a", {})
    assert (found.problems, found.doubts) == ((), ("signatures were not checked: no --public-key was given",))


def test_rotation_keeps_the_chain_and_tells_what_goes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    journal = written(path, batches=40, max_bytes=2000, keep=3)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "a.1", "a.2", "a.3"]
    found = check(path, journal.head)
    assert (found.problems, found.doubts, found.first > 1) == ((), (), True)
    (tmp_path / "a.3").unlink()
    (problem,) = check(path).problems
    assert "no rotation has told that the ones before went: cut" in problem
    (tmp_path / "a.1").unlink()
    assert "records were cut out" in check(path).problems[0]


def test_the_next_agent_goes_on_after_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "a"
    written(path).close()
    with path.open("ab") as file:
        file.write(b'{"half":')
    found = check(path)
    assert (found.problems, found.head.seq) == ((), 20)
    assert "8 bytes of a record that is not whole" in found.doubts[0]
    for part in (b"", b'{"second'):  # killed again, in the midst of its own first record
        journal = Journal(path, SIGNER)
        left = journal.resume()
        journal.close()
        with path.open("ab") as file:
            file.write(part)
    journal = Journal(path, SIGNER)
    left = journal.resume()
    journal.append([{"kind": "agent_start", **left.as_fields()}])
    found = check(path)
    assert (found.problems, found.head.seq) == ((), 21)
    assert "17 bytes are no whole record" in found.doubts[0]


def test_what_was_put_at_the_end_while_no_agent_ran_is_not_vouched_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    written(path).close()
    path.write_bytes(b"".join(forged_tail(path.read_bytes().splitlines(keepends=True))))
    journal = Journal(path, SIGNER)
    journal.append([{"kind": "agent_start", **journal.resume().as_fields()}])
    found = check(path)
    assert found.problems == ()
    assert ":22: the 1 records before were not signed: forged, or of an agent that died" in found.doubts[0]


@pytest.mark.parametrize(
    "line", [b'{"seq":NaN}', b'{"seq":' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"seq":"1"}', b"\xff", b"null"]
)
def test_no_text_at_the_end_stops_the_next_agent_or_the_reader(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a"
    written(path).close()
    with path.open("ab") as file:
        file.write(line + b"\n")
    assert check(path).head.seq == 20
    journal = Journal(path, SIGNER)
    journal.append([{"kind": "agent_start", **journal.resume().as_fields()}])
    found = check(path)
    assert (found.problems, found.head.seq, len(found.doubts)) == ((), 21, 1)


def test_fields_of_a_record_that_somebody_made_stop_no_reader(tmp_path: Path) -> None:
    path = tmp_path / "a"
    journal = written(path)
    for kind in ("rotated", "agent_stop"):
        journal.append([{"kind": kind, "gone_through": "x", "missing_through": [], "cut_bytes": {}}])
    assert check(path).problems == ()


def test_an_agent_goes_on_from_the_file_before_where_it_was_killed_in_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a"
    head = written(path).head
    path.rename(tmp_path / "a.1")
    journal = Journal(path, SIGNER)
    assert journal.resume().head == head
    journal.append([{"kind": "agent_start"}])
    assert check(path).problems == ()


def test_a_head_that_is_missing_at_a_start_is_told(tmp_path: Path) -> None:
    """Somebody cut the end off while no agent ran: the head beside the log says how far it went."""
    path = tmp_path / "a"
    journal = written(path)
    journal.keep_head()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:15]))
    later = Journal(path, SIGNER)
    assert (later.resume().head.seq, later.kept_head().seq) == (15, 20)
    later.append([{"kind": "agent_start", "missing_through": 20}])
    (problem,) = check(path).problems
    assert "records 16 to 20 were gone when an agent started: truncated" in problem


def test_many_records(tmp_path: Path) -> None:
    began = time.perf_counter()
    journal = Journal(tmp_path / "a", SIGNER, max_bytes=16 << 20, keep=1000)
    journal.resume()
    for start in range(0, RECORDS, 1000):
        append(journal, [{"kind": "denial", "n": start + n, "text": "x" * 200} for n in range(1000)])
    wrote = time.perf_counter() - began
    found = check(tmp_path / "a", journal.head)
    took = time.perf_counter() - began - wrote
    assert (found.records, found.problems, found.doubts) == (RECORDS, (), ())
    print(f"{RECORDS} records: written in {wrote:.1f} s, verified in {took:.1f} s")


def test_killed_at_any_moment_a_hundred_times_the_chain_is_whole(tmp_path: Path) -> None:
    """Each agent writes as fast as it can, rotates, and is killed; the next one goes on."""
    path = tmp_path / "a"
    command = [sys.executable, "-m", "tests.audit_writer", str(path), "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    keys = public_keys([tmp_path / "key.pem"])
    found = verify(path, keys)
    assert found.problems == ()
    cut = (
        "no whole record",
        "is not whole",
        "were not signed",
    )  # the last: cut at a line's end, before the signature
    assert [doubt for doubt in found.doubts if not any(words in doubt for words in cut)] == []
    assert found.records > 1000
    print(f"{found.records} records, {len(found.doubts)} of 100 kills cut one")


def test_a_node_s_own_key_is_made_once_and_is_nobody_else_s(tmp_path: Path) -> None:
    first = signer(None, tmp_path / "state" / "k.pem")
    assert (tmp_path / "state" / "k.pem").stat().st_mode & 0o777 == 0o600
    assert signer(None, tmp_path / "state" / "k.pem").key_id == first.key_id
    (tmp_path / "public.pem").write_bytes(first.public_pem())
    assert list(public_keys([tmp_path / "public.pem"])) == [first.key_id]
    (tmp_path / "bad").write_text("no key")
    with pytest.raises(DagwallError, match="bad: no private key in PEM"):
        signer(tmp_path / "bad", tmp_path / "unused")
    with pytest.raises(DagwallError, match=r"--audit-key: .*nowhere"):
        signer(tmp_path / "nowhere", tmp_path / "unused")
    with pytest.raises(DagwallError, match="no public key in PEM"):
        public_keys([tmp_path / "bad"])
