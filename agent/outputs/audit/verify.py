"""Is the log what was written? Reads all files, oldest first, and tells the first place where it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.errors import DagwallError
from agent.outputs.audit.chain import NOTHING, Head, digest, is_signed_by
from agent.outputs.audit.journal import whole

Keys = Mapping[str, Ed25519PublicKey]
"""By their id; none: signatures are not checked."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problems`: what is broken, `doubts`: what cannot be vouched for; neither: the log is whole."""

    records: int
    first: int
    head: Head
    signed: int  # the last record that a checked signature covers
    problems: tuple[str, ...]
    doubts: tuple[str, ...]


def files_of(path: Path) -> list[Path]:
    """Oldest first. Raises DagwallError where there are none."""
    found = [(0, path)] if path.exists() else []
    for each in path.parent.glob(f"{path.name}.*"):
        if number := re.fullmatch(re.escape(path.name) + r"\.(\d+)", each.name):
            found.append((int(number[1]), each))
    if not found:
        raise DagwallError(f"{path}: no such audit log")
    return [each for _, each in sorted(found, reverse=True)]


def lines_of(path: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Place, line, and whether it has its end."""
    for file in files_of(path):
        try:
            with open(file, "rb") as opened:
                for number, line in enumerate(opened, 1):
                    yield f"{file}:{number}", line.removesuffix(b"\n"), line.endswith(b"\n")
        except OSError as exc:
            raise DagwallError(f"{file}: {exc.strerror or exc}") from exc


def _number(value: object) -> int:
    """Of a record that somebody may have made."""
    return value if isinstance(value, int) else 0


class _Reader:
    """Takes lines one after the other."""

    def __init__(self, keys: Keys, expected: Head | None) -> None:
        self._keys, self._expected = keys, expected
        self.problems: list[str] = []
        self.doubts: list[str] = []
        self.head = Head()
        self.first = self.count = self.signed = self._gone = 0
        self._began_late = ""
        self._cut: tuple[str, list[bytes]] | None = None
        self._meets_expected = expected is None or expected.seq == 0
        self._unsigned_at = ""

    def take(self, place: str, line: bytes, *, ended: bool) -> bool:
        """False: nothing after this can be trusted."""
        record = whole(line) if ended else None
        if record is None:
            self._cut = (self._cut[0], [*self._cut[1], line]) if self._cut else (place, [line])
            return True
        if not self._cut_is_told(record) or not self._follows(place, record):
            return False
        self.head = Head(int(record["seq"]), digest(line))
        self.count += 1
        if self._expected is not None and self.head.seq == self._expected.seq:
            self._meets_expected = self.head.hash == self._expected.hash
            if not self._meets_expected:
                self.problems.append(
                    f"{place}: record {self.head.seq} is not the one of the head that was kept: replaced"
                )
                return False
        if (missing := _number(record.get("missing_through"))) >= record["seq"]:
            self.problems.append(
                f"{place}: records {record['seq']} to {missing} were gone when an agent started: truncated"
            )
            return False
        if unsigned := record.get("unsigned_before"):
            self.doubts.append(
                f"{place}: the {unsigned} records before were not signed: forged, or of an agent that died"
            )
        if record.get("kind") == "rotated":
            self._gone = max(self._gone, _number(record.get("gone_through")))
        return self._signature(place, record)

    def _follows(self, place: str, record: Mapping[str, Any]) -> bool:
        seq, prev = record["seq"], record.get("prev")
        if not self.count:
            self.first = seq
            self._began_late = place if seq != 1 else ""
            if seq == 1 and prev != NOTHING:
                self.problems.append(f"{place}: record 1 follows something: what was before it was cut off")
                return False
            return True
        if seq == self.head.seq + 1 and prev == self.head.hash:
            return True
        if seq == self.head.seq + 1:
            self.problems.append(
                f"{place}: record {seq} does not follow record {self.head.seq}: one of them was edited"
            )
        elif seq > self.head.seq + 1:
            self.problems.append(
                f"{place}: record {seq} comes after {self.head.seq}: {seq - self.head.seq - 1} records were cut out"
            )
        else:
            self.problems.append(f"{place}: record {seq} comes after {self.head.seq}: reordered, repeated or put in")
        return False

    def _cut_is_told(self, record: Mapping[str, Any]) -> bool:
        if self._cut is None:
            return True
        (place, lines), self._cut = self._cut, None
        text = b"\n".join(lines)
        if record.get("cut_hash") == digest(text) and record.get("cut_bytes") == len(text):
            self.doubts.append(
                f"{place}: {len(text)} bytes are no whole record: an agent was killed, or the disk full"
            )
            return True
        self.problems.append(f"{place}: no record, and no agent has told that it was cut off here: edited or put in")
        return False

    def _signature(self, place: str, record: Mapping[str, Any]) -> bool:
        if "sig" not in record:
            self._unsigned_at = self._unsigned_at or place
            return True
        if not self._keys:
            self._unsigned_at = ""
            return True
        key = self._keys.get(str(record.get("key")))
        if key is None:
            self.problems.append(
                f"{place}: record {record['seq']} is signed with key {record.get('key')}, which was not given"
            )
            return False
        if not is_signed_by(key, record):
            self.problems.append(f"{place}: the signature of record {record['seq']} is wrong: forged")
            return False
        self.signed, self._unsigned_at = int(record["seq"]), ""
        return True

    def end(self, *, stopped: bool) -> Verdict:
        if not stopped:
            self._end()
        if not self._keys and self.count:
            self.doubts.append("signatures were not checked: no --public-key was given")
        return Verdict(self.count, self.first, self.head, self.signed, tuple(self.problems), tuple(self.doubts))

    def _end(self) -> None:
        if self._cut is not None:
            place, lines = self._cut
            text = b"\n".join(lines)
            self.doubts.append(f"{place}: {len(text)} bytes of a record that is not whole: an agent was killed here")
        if self._unsigned_at:
            self.problems.append(
                f"{self._unsigned_at}: the records from here to {self.head.seq} are not signed: a forged tail, or "
                "what an agent left that was killed in the midst of a write"
            )
        if self._began_late and self._gone < self.first - 1:
            self.problems.append(
                f"{self._began_late}: the log begins with record {self.first}, and no rotation has told that the "
                "ones before went: cut"
            )
        expected = self._expected
        if expected is not None and expected.seq > self.head.seq:
            self.problems.append(
                f"the log ends with record {self.head.seq}, and the head that was kept is {expected.seq}: truncated"
            )


def verify(path: Path, keys: Keys, expected: Head | None = None) -> Verdict:
    """`expected`: a head that was kept elsewhere. Raises DagwallError where nothing can be read."""
    reader = _Reader(keys, expected)
    for place, line, ended in lines_of(path):
        if not reader.take(place, line, ended=ended):
            return reader.end(stopped=True)
    return reader.end(stopped=False)
