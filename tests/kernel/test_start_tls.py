"""Rules with `tls: {startTls: postgres}`: exactly PostgreSQL's SSLRequest, then a hello."""

from __future__ import annotations

import struct
import time
from functools import partial

import pytest

from agent.model.verdict import DropReason, Verdict
from tests.kernel.hellos import hello, keeps_talking, openssl, talks
from tests.kernel.test_tls import (
    BAD,
    DENIED,
    GOOD,
    HTTP,
    NAMED,
    PORT,
    SITE,
    SITE6,
    Task,
    observed,
    rule,
    running,
    shared,  # noqa: F401  a fixture
    task,  # noqa: F401  a fixture
)

START = struct.pack(">II", 8, 80877103)
GSS = struct.pack(">II", 8, 80877104)
CANCEL = struct.pack(">II", 16, 80877102) + bytes(8)
STARTUP = struct.pack(">II", 22, 3 << 16) + b"user\0airflow\0\0"
BEHIND = f"tls: {{startTls: postgres, serverNames: [{GOOD}]}}"
GAP = 0.2
"""Seconds in which the server gets the request, and answers."""


@pytest.fixture
def behind(task: Task) -> Task:  # noqa: F811
    task.rules(rule(BEHIND, SITE, SITE6))
    return task


@pytest.mark.parametrize("address", [SITE, SITE6])
def test_a_hello_behind_the_request_passes_for_a_server_that_the_rule_names(behind: Task, address: str) -> None:
    for greeting in (openssl(GOOD), hello(GOOD.encode(), 1000)):
        assert behind.talks(START, greeting, address=address, gap=GAP) == "ok"
    assert behind.denials() == []
    assert behind.talks(START, openssl(BAD), address=address, gap=GAP) == DENIED
    assert behind.denials() == [DropReason.SERVER_NAME]


@pytest.mark.parametrize(
    ("pieces", "left", "reason"),
    [
        ((openssl(GOOD),), b"", DropReason.START_TLS),
        ((START + openssl(GOOD),), b"", DropReason.NO_TLS),
        ((START[:4], START[4:]), b"", DropReason.NO_TLS),
        ((START + b"\0",), b"", DropReason.NO_TLS),
        ((GSS,), b"", DropReason.NO_TLS),
        ((CANCEL,), b"", DropReason.NO_TLS),
        ((STARTUP,), b"", DropReason.NO_TLS),
        ((HTTP,), b"", DropReason.NO_TLS),
        ((START, STARTUP), START, DropReason.NO_TLS),
        ((START, START), START, DropReason.NO_TLS),
        ((START, START[:1], openssl(GOOD)), START, DropReason.NO_TLS),
        ((START, HTTP), START, DropReason.NO_TLS),
        ((START, openssl(None)), START, DropReason.NO_SERVER_NAME),
    ],
)
def test_anything_else_is_denied_by_its_reason(
    behind: Task, pieces: tuple[bytes, ...], left: bytes, reason: DropReason
) -> None:
    assert behind.talks(*pieces, gap=GAP) == DENIED
    assert behind.denials() == [reason]
    assert behind.arrived() == left, "not a byte more has left"


def test_rules_without_it_let_no_request_out(task: Task) -> None:  # noqa: F811
    task.rules(rule(NAMED, SITE))
    assert task.talks(START, openssl(GOOD), gap=GAP) == DENIED
    assert task.denials() == [DropReason.NO_TLS]
    assert task.arrived() == b""


def test_with_both_rules_on_a_server_each_name_begins_as_its_own_rule_says(task: Task) -> None:  # noqa: F811
    task.rules(rule(BEHIND, SITE), rule("tls: {serverNames: [b.example.com]}", SITE, name="at-once"))
    assert task.talks(START, openssl(GOOD), gap=GAP) == "ok"
    assert task.talks(openssl("b.example.com")) == "ok"
    assert task.talks(openssl(GOOD)) == DENIED
    assert task.talks(START, openssl("b.example.com"), gap=GAP) == DENIED
    assert task.denials() == [DropReason.START_TLS]


def test_a_rule_with_http_beside_it_changes_nothing(task: Task) -> None:  # noqa: F811
    task.rules(rule(BEHIND, SITE), rule("http: [{path: /}]", SITE, name="http"))
    assert task.talks(START, openssl(GOOD), gap=GAP) == "ok"
    before = task.arrived()
    assert task.talks(HTTP, gap=GAP) == DENIED, "by what comes behind it"
    assert task.arrived() == before + HTTP
    task.denials()
    assert task.talks(START, HTTP, gap=GAP) == DENIED
    assert task.denials() == [DropReason.NO_TLS]
    assert task.talks(GSS) == DENIED
    assert task.arrived() == before + HTTP + START


def test_in_audit_it_is_reported_and_passes(task: Task) -> None:  # noqa: F811
    pod = observed(task, rule(BEHIND, SITE))
    for pieces in ((START, openssl(GOOD)), (STARTUP,), (openssl(GOOD),), (START, STARTUP)):
        assert pod.run(partial(talks, gap=GAP), SITE, PORT, *pieces) == "ok"
    time.sleep(0.7)
    audited = [each for each in task.world.outputs.seen_denials if each.endpoint.uid == pod.uid]
    assert {each.verdict for each in audited} == {Verdict.AUDIT}
    assert [each.reason for each in audited] == [DropReason.NO_TLS, DropReason.START_TLS, DropReason.NO_TLS]


@pytest.mark.parametrize("greeting", [b"", openssl(GOOD)])
def test_an_edit_ends_what_it_takes_away_and_nothing_else(task: Task, greeting: bytes) -> None:  # noqa: F811
    """Whether its hello has come by then or not."""
    task.rules(rule(BEHIND, SITE))
    said = running(task.pod, partial(keeps_talking, silent=True, start=START), SITE, PORT, greeting, 5.0)
    time.sleep(1.0)
    task.rules(rule(f"tls: {{startTls: postgres, serverNames: [{GOOD}, x.example.com]}}", SITE))
    time.sleep(0.7)
    arrived = task.arrived()
    assert arrived == START + greeting
    task.rules(rule(NAMED, SITE))
    assert said() in ("ended", DENIED)


def test_one_that_an_edit_leaves_stays_open(task: Task) -> None:  # noqa: F811
    task.rules(rule(BEHIND, SITE))
    said = running(task.pod, partial(keeps_talking, start=START), SITE, PORT, openssl(GOOD), 3.0)
    time.sleep(0.8)
    task.rules(rule(f"tls: {{startTls: postgres, serverNames: [{GOOD}, x.example.com]}}", SITE))
    assert said() == "open"
