"""Rules with `http` and `tls`: a proxy is asked for hosts that they name, and its tunnels carry TLS for these."""

from __future__ import annotations

import time
from functools import partial

import pytest

from agent.model.verdict import DropReason
from tests.kernel.hellos import ECH, extension, hello, openssl
from tests.kernel.requests import asks, head, keeps_a_tunnel
from tests.kernel.test_http import (
    PROXY,
    HttpTask,
    proxy,  # noqa: F401  a fixture
    shared,  # noqa: F401  a fixture
    task,  # noqa: F401  a fixture
)
from tests.kernel.test_tls import DENIED, PORT, rule, running

HOSTS = "http: [{methods: [CONNECT], host: '*.example.org'}]"
SECURED = f"{HOSTS}, tls: {{required: true}}"
PLAIN = b"SSH-2.0-OpenSSH_9.2p1\r\n"


def ask(task: HttpTask, then: bytes, host: str = "db.example.org", **how: float) -> list[str]:  # noqa: F811
    whole = head(f"{host}:443", method="CONNECT", host=f"{host}:443")
    return task.pod.run(partial(asks, PROXY, PORT, whole, then, **how))  # type: ignore[arg-type]


def test_a_tunnel_begins_with_a_hello_for_the_host_that_was_asked_for(task: HttpTask, proxy: list[bytes]) -> None:  # noqa: F811
    task.rules(rule(SECURED, PROXY))
    assert ask(task, openssl("db.example.org")) == ["200", "ok"]
    assert ask(task, openssl("a.b.example.org") + b"x" * 100_000, host="a.b.example.org") == ["200", "ok"]
    assert ask(task, openssl("other.example.org")) == ["200", "ok"], "another name of the entry"
    assert task.denials() == []
    assert ask(task, openssl("db.example.org"), gap=0.3) == ["200", "ok"]
    assert ask(task, openssl("evil.net"), host="evil.net") == [DENIED]
    assert task.denials() == [DropReason.REQUEST]


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (openssl("evil.net"), DropReason.SERVER_NAME),
        (openssl(None), DropReason.NO_SERVER_NAME),
        (hello(b"db.example.org", 0, extension(ECH, bytes(100))), DropReason.ENCRYPTED_HELLO),
        (PLAIN, DropReason.NO_TLS),
        (head(host="db.example.org"), DropReason.NO_TLS),
        (hello(b"db.example.org", 14000), DropReason.HELLO_TOO_LONG),
    ],
)
def test_what_else_a_tunnel_begins_with_never_leaves(
    task: HttpTask,  # noqa: F811
    proxy: list[bytes],  # noqa: F811
    then: bytes,
    reason: DropReason,
) -> None:
    task.rules(rule(SECURED, PROXY))
    proxy.clear()
    for gap in (0.0, 0.2):
        status, *end = ask(task, then, gap=gap)
        assert status == "200"
        assert end == [DENIED]
        assert task.denials() == [reason]
    assert proxy == []


def test_names_of_the_rule_count_more_than_the_host(task: HttpTask, proxy: list[bytes]) -> None:  # noqa: F811
    names = "tls: {serverNames: [front.example.net], allowNoServerName: true, allowEncryptedHello: true}"
    task.rules(rule(f"{HOSTS}, {names}", PROXY))
    assert ask(task, openssl("front.example.net")) == ["200", "ok"]
    assert ask(task, openssl(None)) == ["200", "ok"]
    assert ask(task, hello(b"front.example.net", 0, extension(ECH, bytes(100)))) == ["200", "ok"]
    assert ask(task, openssl("db.example.org")) == ["200", DENIED]
    assert task.denials() == [DropReason.SERVER_NAME]


def test_an_entry_without_tls_lets_everything_into_its_tunnels(task: HttpTask, proxy: list[bytes]) -> None:  # noqa: F811
    other = "http: [{methods: [CONNECT], host: ssh.example.org}]"
    task.rules(rule(SECURED, PROXY), rule(other, PROXY, name="ssh"))
    assert ask(task, PLAIN, host="ssh.example.org") == ["200", "ok"]
    assert ask(task, openssl("db.example.org")) == ["200", "ok"]
    assert ask(task, PLAIN) == ["200", DENIED]
    assert task.denials() == [DropReason.NO_TLS]


def test_a_hello_of_a_tunnel_is_none_of_its_connection(task: HttpTask, proxy: list[bytes]) -> None:  # noqa: F811
    """A rule that asks a connection to begin with it is not met by one inside."""
    direct = "tls: {serverNames: [db.example.org]}"
    task.rules(rule(SECURED, PROXY), rule(direct, PROXY, name="direct"))
    assert ask(task, openssl("db.example.org")) == ["200", "ok"]
    other = f"{HOSTS}, tls: {{serverNames: [front.example.net]}}"
    task.rules(rule(other, PROXY), rule(direct, PROXY, name="direct"))
    proxy.clear()
    assert ask(task, openssl("db.example.org")) == ["200", DENIED], "though the other rule names it"
    assert proxy == []
    task.rules(rule(direct, PROXY, name="direct"))
    assert ask(task, openssl("db.example.org")) == [DENIED]


def test_an_edit_ends_the_tunnels_whose_beginning_it_takes_away(task: HttpTask, proxy: list[bytes]) -> None:  # noqa: F811
    task.rules(rule(HOSTS, PROXY))
    both = {then: running(task.pod, holds_a_tunnel, then, 3.5) for then in (PLAIN, openssl("db.example.org"))}
    time.sleep(1.0)
    task.rules(rule(SECURED, PROXY))
    plain, secured = (said() for said in both.values())
    assert plain in ("ended", DENIED)
    assert secured == "open"


def holds_a_tunnel(then: bytes, seconds: float) -> str:
    whole = head("db.example.org:443", method="CONNECT", host="db.example.org:443")
    return keeps_a_tunnel(PROXY, PORT, whole, then, seconds)
