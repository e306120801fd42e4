"""The table by which requests are read, followed here as bpf/request.c follows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.abi.structs import GRAMMAR, GRAMMAR_STATES
from agent.kernel.grammar import Act, packed, states
from agent.model.verdict import DropReason
from agent.semantics.paths import normal_path

HEAD = b" HTTP/1.1\r\nHost: api.internal\r\n\r\n"
TEXTS, NUMBERS, COUNTS = Act.METHOD, Act.LENGTH, Act.HAS_HOST
CHUNKS, TRAILER = states()["GRAMMAR_CHUNKS"], states()["GRAMMAR_TRAILER"]


@cache
def steps() -> tuple[int, ...]:
    return tuple(GRAMMAR.unpack(packed())["steps"])


@dataclass
class Read:
    """What a head, or chunks, came to."""

    state: int = 0
    texts: list[bytes] = field(default_factory=lambda: [b""] * 4)
    numbers: list[int] = field(default_factory=lambda: [0] * 4)
    counts: list[int] = field(default_factory=lambda: [0] * 6)
    fault: DropReason = DropReason.NONE
    ended: bool = False
    rest: bytes = b""

    def read(self, data: bytes) -> Read:
        at = 0
        while at < len(data):
            word = steps()[self.state << 8 | data[at]]
            self.state, act, value = word & 255, Act(word >> 8 & 255), word >> 16 & 255
            at += 1
            if Act.NONE < act < NUMBERS:
                self.texts[act - TEXTS] += bytes([value])
            elif NUMBERS <= act < COUNTS:
                number = self.numbers[act - NUMBERS] * (16 if act is Act.CHUNK_SIZE else 10) + value
                self.numbers[act - NUMBERS] = number
            elif COUNTS <= act < Act.HEAD_ENDS:
                self.counts[act - COUNTS] += 1
            elif act is Act.FAIL:
                self.fault = DropReason(value)
                break
            elif act is Act.HEAD_ENDS or (act is Act.CHUNK and not self.state):
                self.ended, self.rest = True, data[at:]
                break
            elif act is Act.CHUNK:
                size, self.numbers[1] = self.numbers[1], 0
                self.state = self.state if size else TRAILER
                at += size
        return self


def test_no_byte_leads_out_of_the_table() -> None:
    for word in steps():
        assert word & 255 < GRAMMAR_STATES
        assert Act(word >> 8 & 255) in Act
        assert word >> 24 == 0
        if Act(word >> 8 & 255) is Act.FAIL:
            assert DropReason(word >> 16 & 255) is not DropReason.UNKNOWN


def test_numbers_of_states_stay_what_they_are() -> None:
    """A connection keeps its state over an upgrade: new states come last."""
    assert states() == {"GRAMMAR_CHUNKS": 181, "GRAMMAR_TRAILER": 186, "GRAMMAR_VALUE": 160}


def test_a_head() -> None:
    line = b"POST http://API.internal:8080/v1/%61?x HTTP/1.1\r\n"
    found = Read().read(line + b"hOST:\tapi.Internal:8080 \r\nContent-Length: 017\r\n\r\nbody")
    assert found.ended
    assert (found.rest, found.fault) == (b"body", DropReason.NONE)
    assert found.texts == [b"POST", b"api.internal", b"api.internal", b"/v1/a"]
    assert found.numbers == [17, 0, 8080, 8080]
    assert found.counts == [1, 1, 0, 0, 1, 0]


def test_a_tunnel_and_an_old_version() -> None:
    found = Read().read(b"CONNECT [2001:DB8::1]:443 HTTP/1.0\r\n\r\n")
    assert found.ended
    assert found.texts == [b"CONNECT", b"[2001:db8::1]", b"", b""]
    assert (found.numbers[2], found.counts) == (443, [0, 0, 0, 1, 0, 1])
    assert Read().read(b"CONNECTED / HTTP/1.1\r\n").texts[0] == b"CONNECTED"
    assert Read().read(b"CON /x" + HEAD).texts[0] == b"CON"


def test_chunks() -> None:
    found = Read(state=CHUNKS).read(b"5\r\nhello\r\n1A\r\n" + b"x" * 26 + b"\r\n0\r\nX: y\r\n\r\nGET")
    assert found.ended
    assert (found.rest, found.fault) == (b"GET", DropReason.NONE)


ALPHABET = st.sampled_from([*'/.%;2Ff5cCeEa0*?=\\"#~', "%2F", "%2e", "..", "%25", "\xfc", "|"])


@given(st.lists(ALPHABET, max_size=12))
@example(list("/..;x"))
@example(["/", "%2F", "..", "%2F"])
def test_a_path_is_what_people_s_side_makes_of_it(parts: list[str]) -> None:
    """One reading, two writers: agent/semantics/paths.py is asked by the parser of policies and by `explain`."""
    target = "/" + "".join(parts).replace("?", "").replace(" ", "")
    found = Read().read(b"GET " + target.encode("latin-1") + HEAD)
    path, fault = normal_path(target)
    if fault is DropReason.NONE:
        assert found.ended
        assert found.texts[3].decode("latin-1") == path
    else:
        assert found.fault in (DropReason.BROKEN_REQUEST, DropReason.BAD_ESCAPE, DropReason.DOT_SEGMENT)


@given(st.binary(max_size=60))
def test_any_bytes_end_a_head_or_fail(data: bytes) -> None:
    found = Read().read(data)
    assert found.ended <= data.endswith(found.rest)
    assert not (found.ended and found.fault)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_head_in_pieces_is_the_same(cut: int) -> None:
    whole = b"GET /v1/%6a?x HTTP/1.1\r\nHost: api.internal\r\nX: y\r\n\r\n"
    assert Read().read(whole[:cut]).read(whole[cut:]) == Read().read(whole)
