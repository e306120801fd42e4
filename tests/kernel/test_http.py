"""Rules with `http`: each request of a connection is judged by itself, and leaves only where a rule names it."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.app.agent import Agent
from agent.kernel.datapath import detach
from agent.model.request import Request
from agent.model.verdict import DropReason, Verdict
from lab.node import ScratchNode, in_netns
from tests.kernel.agent_process import AgentProcess
from tests.kernel.hellos import openssl, talks, talks_again, talks_by_mptcp, talks_early, talks_in_the_syn
from tests.kernel.requests import (
    asks,
    forges_what_failed,
    head,
    keeps_asking,
    keeps_waiting,
    rewrites_its_pages,
    sends,
    sends_by_sendfile,
    sends_from_a_child,
    sends_one_by_one,
    sends_split_everywhere,
    sends_while_the_way_is_cut,
    sends_zero_copy,
)
from tests.kernel.resolver import look_up
from tests.kernel.rig import eventually
from tests.kernel.sockets import udp
from tests.kernel.test_agent import pod_manifest
from tests.kernel.test_tls import (
    DENIED,
    DNS,
    OBSERVED,
    OTHER,
    PLAIN,
    PORT,
    SITE,
    SITE6,
    Counting,
    Task,
    World,
    policy,
    rule,
    running,
    world_with_agent,
)

API = (
    "http: [{methods: [GET, POST, PUT], host: api.internal, path: /v1/*}, {host: '*.example.org'}, "
    "{methods: [HEAD], host: api.internal, path: '/v2/*/status'}]"
)
GOOD, BAD = head(), head("/admin")


class HttpTask(Task):
    def sends(self, *pieces: bytes, address: str = SITE, **how: float) -> str:
        return self.pod.run(partial(sends, address, PORT, *pieces, **how), timeout=40)  # type: ignore[arg-type]

    def requests(self) -> list[Request | None]:
        seen = self.world.outputs.seen_denials
        return [each.request for each in seen if each.endpoint.uid == self.pod.uid]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Agent]]:
    with world_with_agent(tmp_path_factory.mktemp("http")) as found:
        yield found


@pytest.fixture
def task(shared: tuple[World, Agent]) -> HttpTask:
    return HttpTask(*shared)


@pytest.mark.parametrize(
    "request_",
    [
        head(),
        head("/v1/"),
        head("/v1/a/b?x=/../&y=%zz"),
        head("/v1/%6a%6Fbs"),
        head("/v1/a%2Fb"),
        head("/v1/dagRuns/manual__2024-01-01T00%3A00%3A00%2B00%3A00"),
        head("/%761/x"),
        head("/v1/.hidden/..x/x.."),
        head("/v1/jobs", method="PUT"),
        head("/v2/a/b/status", method="HEAD"),
        head("/any", method="PATCH", host="a.b.example.org"),
        head("/any", method="PURGE", host="a.example.org"),
        head("*", method="OPTIONS", host="x.example.org"),
        head(host="API.Internal:8080"),
        head(host=" api.internal \t"),
        head("http://api.internal/v1/x"),
        head("HTTP://API.internal:80/v1/x?y"),
        head("http://x.example.org", host="x.example.org:80"),
        b"GET /v1/x HTTP/1.0\r\nHost: api.internal\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nHOST:api.internal\r\nX-Content-Length: 7\r\nHosts: x\r\nHos: y\r\n\r\n",
        head("/v1/x", "Upgrade-Insecure-Requests: 1", "Connection: keep-alive, x", "Content-Lengthy: a", "X: \xfc"),
        head("/v1/x", "Cookie: " + "c" * 1000),
        head("/v1/" + "p" * 1000),
        head("/v1/x", "Content-Length: 5", method="POST") + b"hello",
        head("/v1/x", "Content-Length: 0005 ", method="POST") + b"hello",
        head("/v1/x", "Expect: 100-continue", "Content-Length: 3", method="PUT") + b"abc",
        head("/v1/x", "Transfer-Encoding: CHUNKED", method="POST") + b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
        head("/v1/x", "Transfer-Encoding:chunked\t", method="POST") + b"0\r\nX-Trailer: y\r\n\r\n" + GOOD,
    ],
)
def test_requests_that_a_rule_names_pass(task: HttpTask, request_: bytes) -> None:
    task.rules(rule(API, SITE))
    assert task.sends(request_) == "ok"
    assert task.arrived() == request_
    assert task.denials() == []


BROKEN: list[tuple[bytes, DropReason]] = [
    (head("/v1"), DropReason.REQUEST),
    (head("/V1/x"), DropReason.REQUEST),
    (head("/v1/x", method="DELETE"), DropReason.REQUEST),
    (head("/v1/x", host="api.internal.evil.net"), DropReason.REQUEST),
    (head("/v1/x", host="xapi.internal"), DropReason.REQUEST),
    (head("/x", host="example.org"), DropReason.REQUEST),
    (head("/v2/status", method="HEAD"), DropReason.REQUEST),
    (head("/v2/x/statusx", method="HEAD"), DropReason.REQUEST),
    (head("/x", method="CONNECT", host="a.example.org"), DropReason.BROKEN_REQUEST),
    (head("a.example.org:443", method="CONNECT", host="a.example.org:443"), DropReason.REQUEST),
    (head("http://evil.net/v1/x"), DropReason.HOST_DISAGREES),
    (head("http://api.internal/v1/x", host="evil.net"), DropReason.HOST_DISAGREES),
    (head("http://evil.net/v1/x", host="evil.net"), DropReason.REQUEST),
    (head("http://api.internal:8080/v1/x"), DropReason.HOST_DISAGREES),
    (head("http://api.internal:8080/v1/x", host="api.internal:8080"), DropReason.REQUEST),
    (head("http://api.internal:99999/v1/x", host="api.internal:99999"), DropReason.BAD_HOST),
    (head("http://u@api.internal/v1/x"), DropReason.BROKEN_REQUEST),
    (head("https://api.internal/v1/x"), DropReason.BROKEN_REQUEST),
    (head("//evil.net/v1/x"), DropReason.BROKEN_REQUEST),
    (head("v1/x"), DropReason.BROKEN_REQUEST),
    (head("/v1/x#y"), DropReason.BROKEN_REQUEST),
    (head("/v1\\x"), DropReason.BROKEN_REQUEST),
    (head("/v1/\xfc"), DropReason.BROKEN_REQUEST),
    (head("/v1/x", host=None), DropReason.BAD_HOST),
    (head("/v1/x", host=""), DropReason.BAD_HOST),
    (head("/v1/x", host="api.internal."), DropReason.BAD_HOST),
    (head("/v1/x", host="api..internal"), DropReason.BAD_HOST),
    (head("/v1/x", host="api.internal, evil.net"), DropReason.BAD_HOST),
    (head("/v1/x", "hOsT: api.internal"), DropReason.BAD_HOST),
    (head("/v1/x", "Host: evil.net"), DropReason.BAD_HOST),
    (head("/v1/../admin"), DropReason.DOT_SEGMENT),
    (head("/v1/./x"), DropReason.DOT_SEGMENT),
    (head("/v1/.."), DropReason.DOT_SEGMENT),
    (head("/v1/..?x"), DropReason.DOT_SEGMENT),
    (head("/v1/%2e%2E/admin"), DropReason.DOT_SEGMENT),
    (head("/v1/.%2e/admin"), DropReason.DOT_SEGMENT),
    (head("/v1/a%2f..%2fadmin"), DropReason.DOT_SEGMENT),
    (head("/v1/..;x/admin"), DropReason.BROKEN_REQUEST),
    (head("/v1/..%3Bx/admin"), DropReason.BAD_ESCAPE),
    (head("/v1/secret.key;.csv"), DropReason.BROKEN_REQUEST),
    (head("/v1//x"), DropReason.DOT_SEGMENT),
    (head("/v1/%2F/x"), DropReason.DOT_SEGMENT),
    (head("/%2Fv1/x"), DropReason.DOT_SEGMENT),
    (head("/v1/a%2f%2Fb"), DropReason.DOT_SEGMENT),
    (head("/v1/%zz"), DropReason.BAD_ESCAPE),
    (head("/v1/%4"), DropReason.BAD_ESCAPE),
    (head("/v1/%00"), DropReason.BAD_ESCAPE),
    (head("/v1/%0d%0a"), DropReason.BAD_ESCAPE),
    (head("/v1/%252e%252e/admin"), DropReason.BAD_ESCAPE),
    (head("/v1/%5c..%5cadmin"), DropReason.BAD_ESCAPE),
    (head("/v1/%c0%ae"), DropReason.BAD_ESCAPE),
    (head("/v1/%u002e"), DropReason.BAD_ESCAPE),
    (b"GET /v1/x HTTP/1.1\nHost: api.internal\n\n", DropReason.BARE_LINE_END),
    (head("/v1/x", "X: y\nZ: 1"), DropReason.BARE_LINE_END),
    (head("/v1/x", "X: y\rZ: 1"), DropReason.BARE_LINE_END),
    (head("/v1/x", "X: y\n\nGET /admin HTTP/1.1"), DropReason.BARE_LINE_END),
    (head("/v1/x", "X\n: y"), DropReason.BARE_LINE_END),
    (head("/v1/x", "X: y\r\n z"), DropReason.FOLDED_HEADER),
    (head("/v1/x", "X: y\r\n\tz"), DropReason.FOLDED_HEADER),
    (head("/v1/x", "Content-Length : 5"), DropReason.SPACE_IN_HEADER),
    (head("/v1/x", "Content\tLength: 5"), DropReason.SPACE_IN_HEADER),
    (head("/v1/x", "X: \0"), DropReason.BAD_HEADER),
    (head("/v1/x", "X: \x7f"), DropReason.BAD_HEADER),
    (head("/v1/x", ": y"), DropReason.BAD_HEADER),
    (head("/v1/x", "nonsense"), DropReason.BAD_HEADER),
    (head("/v1/x", "X(y): z"), DropReason.BAD_HEADER),
    (head("/v1/x", "Content-Length: 3", "Content-Length: 3"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Content-Length: 3", "Transfer-Encoding: chunked"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Transfer-Encoding: chunked", "content-length: 0"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Content-Length: +5"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Content-Length: 5, 5"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Content-Length: 0x5"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Content-Length: -1"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Content-Length:"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", f"Content-Length: {1 << 64}"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Transfer-Encoding: identity"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Transfer-Encoding: gzip, chunked"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Transfer-Encoding: xchunked"), DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Transfer-Encoding: \x0bchunked"), DropReason.REQUEST_LENGTH),
    (b"POST /v1/x HTTP/1.0\r\nHost: api.internal\r\nTransfer-Encoding: chunked\r\n\r\n", DropReason.REQUEST_LENGTH),
    (head("/v1/x", "Connection: Upgrade", "Upgrade: websocket"), DropReason.UPGRADE),
    (head("/v1/x", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), DropReason.UPGRADE),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", DropReason.HTTP2),
    (b"GET /v1/x\r\n\r\n", DropReason.BROKEN_REQUEST),
    (b"GET /v1/x HTTP/1.2\r\nHost: api.internal\r\n\r\n", DropReason.NO_HTTP),
    (b"GET /v1/x HTTP/1.1 \r\nHost: api.internal\r\n\r\n", DropReason.NO_HTTP),
    (b"GET  /v1/x HTTP/1.1\r\nHost: api.internal\r\n\r\n", DropReason.BROKEN_REQUEST),
    (b"GET\t/v1/x HTTP/1.1\r\nHost: api.internal\r\n\r\n", DropReason.NO_HTTP),
    (b"get /v1/x HTTP/1.1\r\nHost: api.internal\r\n\r\n", DropReason.NO_HTTP),
    (b"\r\n" + head("/v1/x"), DropReason.NO_HTTP),
    (b"SSH-2.0-OpenSSH_9.2\r\n", DropReason.NO_HTTP),
    (b"\0\0\0\0", DropReason.NO_HTTP),
    (openssl("api.internal"), DropReason.NO_HTTP),
    (head("/v1/" + "p" * 1100), DropReason.REQUEST_TOO_LONG),
    (head("/v1/x", method="M" * 16), DropReason.REQUEST_TOO_LONG),
    (head("/v1/x", host="h" * 250), DropReason.REQUEST_TOO_LONG),
]


@pytest.mark.parametrize(("request_", "reason"), BROKEN)
def test_anything_else_is_denied_by_its_reason(task: HttpTask, request_: bytes, reason: DropReason) -> None:
    task.rules(rule(API, SITE))
    assert task.sends(request_) == DENIED
    assert task.denials() == [reason]
    assert task.arrived() == b""


POST = head("/v1/x", "Content-Length: 3000", method="POST") + b"b" * 3000
CHUNKED = head("/v1/x", "Transfer-Encoding: chunked", method="POST")
CHUNKS = b"5\r\nhello\r\n" + b"3e8\r\n" + b"c" * 1000 + b"\r\n0\r\n\r\n"


def test_each_request_of_a_connection_is_judged(task: HttpTask) -> None:
    task.rules(rule(API, SITE, SITE6))
    every = [GOOD, POST, CHUNKED + CHUNKS, GOOD]
    assert task.pod.run(sends_one_by_one, SITE, PORT, *every) == ["ok"] * 4
    assert task.pod.run(sends_one_by_one, SITE6, PORT, *every) == ["ok"] * 4
    for forbidden in (BAD, head("/v1/x", host="evil.net"), b"x"):
        arrived = task.arrived()
        assert task.pod.run(sends_one_by_one, SITE, PORT, *every, forbidden) == ["ok"] * 4 + [DENIED]
        assert task.arrived() == arrived + b"".join(every)
    assert task.denials() == [DropReason.REQUEST, DropReason.NO_HTTP]


@pytest.mark.parametrize("before", [GOOD, GOOD * 4, POST, CHUNKED + CHUNKS, head("/v1/x", "Expect: 100-continue")])
def test_a_forbidden_request_behind_an_allowed_one_takes_both_along(task: HttpTask, before: bytes) -> None:
    task.rules(rule(API, SITE))
    assert task.sends(before + GOOD) == "ok"
    assert task.arrived() == before + GOOD
    assert task.sends(before + BAD) == DENIED
    assert task.denials() == [DropReason.REQUEST]
    assert task.sends(before, BAD, gap=0.1) in (DENIED, "EPIPE", "ECONNRESET")
    assert BAD not in task.arrived()
    assert b"/admin" not in task.arrived()


def test_many_pipelined_requests_pass_as_far_as_they_can_be_read(task: HttpTask) -> None:
    """What one packet may ask of the programs is limited: more waits for TCP to send it again, or is denied."""
    task.rules(rule(API, SITE))
    for count in (10, 20):
        assert task.sends(GOOD * count) == "ok", count
    assert task.arrived() == GOOD * 30
    assert task.sends(GOOD * 60) in ("ok", DENIED, f"{DENIED} late")
    assert task.sends(GOOD * 20 + BAD) in (DENIED, f"{DENIED} late")
    assert b"/admin" not in task.arrived()


def test_bodies_pass_by_their_length_whatever_is_in_them(task: HttpTask) -> None:
    task.rules(rule(API, SITE))
    body = BAD * 3000
    put = head("/v1/x", f"Content-Length: {len(body)}", method="PUT") + body
    assert task.pod.run(sends_one_by_one, SITE, PORT, put, GOOD) == ["ok", "ok"]
    pieces = [put[at : at + 7000] for at in range(0, len(put), 7000)]
    assert task.sends(*pieces, GOOD) == "ok"
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part) for part in (body[at : at + 4000] for at in range(0, len(body), 4000))
    )
    assert task.pod.run(sends_one_by_one, SITE, PORT, CHUNKED + chunks + b"0\r\n\r\n", GOOD) == ["ok", "ok"]
    small = b"".join(b"%x\r\n%s\r\n" % (100, b"c" * 100) for _ in range(500)) + b"0\r\n\r\n"
    assert task.pod.run(sends_one_by_one, SITE, PORT, CHUNKED, small, GOOD) == ["ok", "ok", "ok"]
    short = head("/v1/x", f"Content-Length: {len(body) - len(BAD)}", method="PUT") + body
    assert task.sends(short) == DENIED, "its end is another request"
    assert task.denials() == [DropReason.REQUEST]


@pytest.mark.parametrize(
    "chunks",
    [
        b"5;x=y\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\n",
        b"\r\n",
        b"5\r\nhello0\r\n\r\n",
    ],
)
def test_chunks_that_two_readers_may_read_differently_are_denied(task: HttpTask, chunks: bytes) -> None:
    task.rules(rule(API, SITE))
    assert task.sends(CHUNKED + chunks + BAD) == DENIED
    assert task.denials() == [DropReason.BAD_CHUNK]
    assert task.arrived() == b""


def test_a_request_in_two_writes_passes_wherever_it_is_cut(task: HttpTask) -> None:
    task.rules(rule(API, SITE))
    whole = head("/v1/x", "Content-Length: 5", method="POST") + b"hello" + GOOD
    assert task.pod.run(sends_split_everywhere, SITE, PORT, whole, 1, timeout=120) == []
    chunked = CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n" + GOOD
    assert task.pod.run(sends_split_everywhere, SITE, PORT, chunked, 1, timeout=120) == []
    arrived = task.arrived()
    for cut in (1, 4, 5, 10, 12, 20, len(BAD) - 1):
        assert task.sends(BAD[:cut], BAD[cut:]) == DENIED, cut
        assert task.sends(BAD[:cut], BAD[cut:], gap=0.3) == DENIED, cut
    assert task.arrived() == arrived
    assert task.sends(*[bytes([each]) for each in GOOD]) == "ok"
    assert task.sends(*[bytes([each]) for each in GOOD], nodelay=False) == "ok"


def test_a_head_that_tcp_has_split_passes_once_its_target_and_host_are_judged(task: HttpTask) -> None:
    task.rules(rule(API, SITE))
    for size in (3000, 9000, 25000):
        assert task.sends(head("/v1/x", "Cookie: " + "c" * size) + GOOD) == "ok", size
    pieces = head("/v1/x", *[f"X-{i}: {'x' * 90}" for i in range(60)])
    assert task.sends(*[pieces[at : at + 100] for at in range(0, len(pieces), 100)], flags=0x80, gap=0.001) == "ok"
    arrived = len(task.arrived())
    for late in ("Content-Length: 1\r\nContent-Length: 2", "Host: evil.net", "X : y"):
        assert task.sends(head("/v1/x", "Cookie: " + "c" * 25000, late)) == DENIED
    assert task.sends(head("/v1/x", "X: " + "y" * 40000)) == DENIED
    assert b"\r\n\r\n" not in task.arrived()[arrived:], "no head of these has come whole"
    assert set(task.denials()) == {
        DropReason.REQUEST_LENGTH, DropReason.BAD_HOST, DropReason.SPACE_IN_HEADER, DropReason.REQUEST_TOO_LONG,
    }  # fmt: skip
    unjudged = f"GET /v1/x HTTP/1.1\r\nCookie: {'c' * 25000}\r\nHost: api.internal\r\n\r\n".encode()
    arrived = len(task.arrived())
    assert task.sends(unjudged) == DENIED, "its host comes too late"
    assert len(task.arrived()) == arrived


@pytest.mark.parametrize("way", [talks_early, talks_in_the_syn])
def test_no_early_write_gets_around_it(task: HttpTask, way: Callable[[str, int, bytes], str]) -> None:
    for netns in (task.pod.netns, task.world.node.world):
        with in_netns(netns):
            Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543", encoding="ascii")
    task.rules(rule(API, SITE))
    assert task.pod.run(way, SITE, PORT, GOOD) == "ok"
    arrived = task.arrived()
    assert task.pod.run(way, SITE, PORT, BAD) == DENIED
    assert task.pod.run(way, SITE, PORT, GOOD + BAD) == DENIED
    assert task.arrived() == arrived


def test_pages_that_may_still_change_carry_bodies_only(task: HttpTask) -> None:
    task.rules(rule(API, SITE), rule("", PLAIN, name="plain"))
    for _ in range(50):
        assert task.pod.run(rewrites_its_pages, PLAIN, PORT, GOOD, head("/admin/x")) == "ok"
        if b"/admin" in task.arrived(PLAIN):
            break
    assert b"/admin" in task.arrived(PLAIN), "or the test below shows nothing"
    assert task.pod.run(rewrites_its_pages, SITE, PORT, GOOD, head("/admin/x")) == DENIED
    assert task.pod.run(sends_by_sendfile, SITE, PORT, b"", GOOD) == DENIED
    assert task.pod.run(sends_zero_copy, SITE, PORT, GOOD) == DENIED
    assert task.denials() == [DropReason.SHARED_PAGES]
    assert task.arrived() == b""
    put = head("/v1/x", "Content-Length: 100000", method="PUT")
    assert task.pod.run(sends_by_sendfile, SITE, PORT, put, b"b" * 100_000) == "ok"


def test_what_is_sent_again_passes_while_a_head_is_awaited(task: HttpTask, tmp_path: Path) -> None:
    if not shutil.which("nft"):
        pytest.skip("nothing here can cut the way")
    task.rules(rule(API, SITE))
    cut = tmp_path / "cut"
    table = "table ip cut { chain c { type filter hook input priority 0; tcp dport 443 drop; }; }"
    nft = ("ip", "netns", "exec", task.world.node.world, "nft")

    def close_and_open() -> None:
        assert eventually(cut.exists, 10)
        subprocess.run([*nft, "-f", "-"], input=table.encode(), check=True)
        assert eventually(lambda: not cut.exists(), 10)
        subprocess.run([*nft, "delete", "table", "ip", "cut"], check=True)

    thread = threading.Thread(target=close_and_open)
    thread.start()
    said = task.pod.run(sends_while_the_way_is_cut, SITE, PORT, (POST, GOOD[:20], GOOD[20:]), cut, timeout=40)
    thread.join()
    assert said == "ok"
    assert task.denials() == []


def test_urgent_data_are_denied(task: HttpTask) -> None:
    """The server reads the stream without them: another request than the one that was judged."""
    task.rules(rule(API, SITE))
    for cut in (1, 10, len(GOOD) - 1):
        assert task.sends(GOOD[:cut], flags=socket.MSG_OOB) == DENIED
    assert DropReason.BROKEN_REQUEST in task.denials()
    assert task.arrived() == b""


def test_whoever_writes_to_the_socket_is_judged(task: HttpTask) -> None:
    task.rules(rule(API, SITE), rule("http: [{path: /v1/*}]", OTHER, name="other"))
    assert task.pod.run(sends_from_a_child, SITE, PORT, GOOD, GOOD) == ["ok", "ok"]
    assert task.pod.run(sends_from_a_child, SITE, PORT, GOOD, BAD) == ["ok", DENIED]
    assert task.pod.run(sends_from_a_child, SITE, PORT, BAD, GOOD)[0] == DENIED
    assert task.pod.run(talks_again, SITE, PORT, GOOD, (OTHER, PORT), GOOD) == ["ok", "ok"]
    assert task.pod.run(talks_again, SITE, PORT, GOOD, (OTHER, PORT), BAD) == ["ok", DENIED]
    assert b"/admin" not in task.arrived()


def test_mptcp_is_refused_where_a_rule_asks_for_http(task: HttpTask) -> None:
    task.rules(rule("", PLAIN, name="plain"))
    before = task.pod.run(talks_by_mptcp, PLAIN, PORT, b"ping")
    if before == "EPROTONOSUPPORT":
        pytest.skip("this kernel has no MPTCP")
    assert before == "ok"
    task.rules(rule("", PLAIN, name="plain"), rule(API, SITE))
    assert task.pod.run(talks_by_mptcp, SITE, PORT, BAD) in ("EPROTONOSUPPORT", "EPERM")


def test_any_of_several_rules_may_match(task: HttpTask) -> None:
    task.rules(rule(API, SITE), rule("http: [{path: /admin}]", SITE, name="second"))
    assert task.pod.run(sends_one_by_one, SITE, PORT, GOOD, BAD, GOOD) == ["ok"] * 3
    assert task.sends(head("/x")) == DENIED
    task.rules(rule(API, SITE), rule("tls: {serverNames: [api.internal]}", SITE, name="secure"))
    assert task.sends(GOOD) == "ok"
    assert task.sends(BAD) == DENIED
    assert task.pod.run(talks, SITE, PORT, openssl("api.internal")) == "ok"
    assert task.pod.run(talks, SITE, PORT, openssl("evil.net")) == DENIED
    assert set(task.denials()) == {DropReason.REQUEST, DropReason.SERVER_NAME}
    task.rules(rule(API, SITE), rule("", SITE, name="plain"))
    assert task.sends(b"anything") == "ok", "a rule without http allows it, whatever it carries"


def test_a_rule_with_http_grants_no_datagrams(task: HttpTask) -> None:
    task.world.node.serve(SITE, 8080, socket.SOCK_DGRAM)
    task.rules(rule("http: [{path: /}]", SITE, port=8080))
    assert task.pod.run(udp, SITE, 8080) == "EPERM"


def test_what_a_denial_says(task: HttpTask) -> None:
    task.rules(rule(API, SITE))
    assert task.sends(head("/admin/a%2Fx?secret", method="POST", host="api.internal:8080")) == DENIED
    time.sleep(0.5)
    assert Request("POST", "api.internal", "/admin/a\x01x") in task.requests()


def test_pending_writes_are_never_forged(task: HttpTask) -> None:
    """A write that does not block is taken in part; another request comes in the place of its rest."""
    task.rules(rule(API, SITE))
    allowed = head("/v1/" + "a" * 900)
    forbidden = head("/admin" + "a" * 898)
    assert len(allowed) == len(forbidden)
    assert task.pod.run(forges_what_failed, SITE, PORT, allowed, forbidden, timeout=60)
    assert b"/admin" not in task.arrived()


PROXY, WEB = "198.51.100.50", "198.51.100.60"
CONNECT = head("db.example.org:443", method="CONNECT", host="db.example.org:443")


@pytest.mark.parametrize("cookie", [0, 900, 2500])
def test_what_was_left_unjudged_for_want_of_tail_calls_is_judged_when_it_comes(task: HttpTask, cookie: int) -> None:
    """A request that another rule of the pod names has bits too, and a packet of many heads is dropped somewhere."""
    other = "http: [{host: api.internal, path: /admin}]"
    task.rules(rule("http: [{host: api.internal, path: /v1/*}]", SITE), rule(other, OTHER, name="other"))
    first = head("/v1/x", f"Cookie: {'c' * cookie}") if cookie else GOOD
    for more in range(8, 20):
        task.sends(first + GOOD * more + BAD)
    time.sleep(0.3)
    assert b"/admin" not in task.arrived()


STREAM, NEXT = head("/v2/stream"), head("/v1/x")


@pytest.mark.parametrize("behind", [b"", b"G", NEXT])
def test_a_request_that_is_answered_still_is_revoked_whatever_was_written_behind_it(
    task: HttpTask, behind: bytes
) -> None:
    """P10: the server answers one request after the other."""
    task.rules(rule("http: [{path: /v1/*}, {path: /v2/*}]", SITE))
    said = running(task.pod, holds_open, STREAM, behind, 4.0)
    time.sleep(1.2)
    task.rules(rule("http: [{path: /v1/*}]", SITE))
    assert said() in ("ended", DENIED)


def test_a_revision_that_takes_nothing_away_counts_entries_anew(task: HttpTask) -> None:
    """P10: bits of two rulesets have nothing in common."""
    task.rules(rule("http: [{path: /v2/*}, {path: /v1/*}]", SITE))
    said = running(task.pod, holds_open, STREAM, NEXT, 6.0, 1.5)
    time.sleep(0.8)
    task.rules(rule("http: [{path: /v1/*}, {path: /v2/*}, {path: /v3/*}]", SITE))
    time.sleep(1.5)
    task.rules(rule("http: [{path: /v1/*}]", SITE))
    assert said() in ("ended", DENIED)


def holds_open(first: bytes, behind: bytes, seconds: float, gap: float = 0.3) -> str:
    return keeps_waiting(SITE, PORT, first, behind, seconds, gap=gap)


@pytest.fixture(scope="module")
def proxy(shared: tuple[World, Agent]) -> list[bytes]:
    """Answers 200 to whoever asks for example.org, 407 to others; then it is an echo, of what is listed."""
    world, tunnelled = shared[0], list[bytes]()
    world.node.add_addresses(PROXY)
    with in_netns(world.node.world):
        listener = socket.create_server((PROXY, PORT))

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            asked = b""
            while b"\r\n\r\n" not in asked:
                if not (part := sock.recv(4096)):
                    return
                asked += part
            opens = b"example.org" in asked
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n" if opens else b"HTTP/1.1 407 No\r\n\r\n")
            while part := sock.recv(65536):
                tunnelled.append(part)
                sock.sendall(part)

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return tunnelled


@pytest.mark.usefixtures("proxy")
def test_a_proxy_is_asked_only_for_hosts_that_a_rule_names(task: HttpTask) -> None:
    hosts = "{methods: [CONNECT], host: '*.example.org'}, {methods: [CONNECT], host: 'no.internal:8443'}"
    task.rules(rule(f"http: [{hosts}, {{methods: [GET], host: api.internal, path: /v1/*}}]", PROXY))

    def ask(target: str, then: bytes = b"\x16\x03anything", **how: bytes) -> list[str]:
        whole = head(target, method="CONNECT", host=target)
        return task.pod.run(partial(asks, PROXY, PORT, whole, then, **how))

    assert ask("db.example.org:443", b"x" * 300_000) == ["200", "ok"]
    assert task.pod.run(asks, PROXY, PORT, b"CONNECT a.example.org:443 HTTP/1.0\r\n\r\n", b"hello") == ["200", "ok"]
    assert task.denials() == []
    for target in ("db.example.org:22", "evil.net:443", "example.org:443", "no.internal:443"):
        assert ask(target) == [DENIED], target
        assert task.denials() == [DropReason.REQUEST]
    assert ask("no.internal:8443") == ["407", DENIED], "the proxy has opened nothing"
    assert ask("db.example.org:443", early=b"\x16") == [DENIED]
    assert task.pod.run(asks, PROXY, PORT, GOOD + CONNECT) == [DENIED], "whose answer would that be?"
    assert task.denials() == [DropReason.TUNNEL_EARLY]
    assert task.pod.run(asks, PROXY, PORT, head("http://api.internal/v1/x")) == ["407"]


class CountingChunks(Counting):
    def do_POST(self) -> None:
        if "Content-Length" in self.headers:
            super().do_POST()
            return
        total = 0
        while size := int(self.rfile.readline(), 16):
            total += len(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        body = str(total).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def web(shared: tuple[World, Agent]) -> Iterator[None]:
    world = shared[0]
    world.node.add_addresses(WEB)
    with in_netns(world.node.world):
        server = ThreadingHTTPServer((WEB, 80), CountingChunks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("web")
def test_real_clients_reach_the_paths_that_the_rule_has(task: HttpTask) -> None:
    task.rules(rule("http: [{methods: [POST], host: api.internal, path: /v1/*}]", WEB, port=80))
    clients = (curl, curl_in_chunks, python, *([node] if shutil.which("node") else []))
    for client in clients:
        assert task.pod.run(client, "/v1/upload") == ["400000"] * 3, client.__name__
        assert "400000" not in task.pod.run(client, "/v2/upload"), client.__name__
    assert task.denials() == [DropReason.REQUEST]


def curl(path: str, *more: str) -> list[str]:
    """Three uploads by one connection."""
    to = [f"http://api.internal{path}/{i}" for i in range(3)]
    command = ["curl", "-sS", "-m", "8", "--resolve", f"api.internal:80:{WEB}", "--data-binary", "@/dev/stdin", *more]
    done = subprocess.run([*command, *to], input=b"x" * 400_000, capture_output=True, check=False)
    text = done.stdout.decode()
    return [text[:6], *(["400000"] * 2 if text.startswith("400000") else [done.stderr.decode()])]


def curl_in_chunks(path: str) -> list[str]:
    return curl(path, "-H", "Transfer-Encoding: chunked")


def node(path: str) -> list[str]:
    """Three uploads by one connection, in chunks."""
    script = """
const http = require('http'), agent = new http.Agent({keepAlive: true, maxSockets: 1}), said = [];
const ask = (left) => {
  const how = {host: 'ADDRESS', port: 80, path: 'PATH', method: 'POST', agent, headers: {Host: 'api.internal'}};
  const request = http.request(how, (answer) => {
    let text = '';
    answer.on('data', (part) => text += part);
    answer.on('end', () => { said.push(text); if (left > 1) ask(left - 1); else done(); });
  });
  request.on('error', (error) => { said.push(error.code); done(); });
  for (let i = 0; i < 4; i++) request.write('x'.repeat(100000));
  request.end();
};
const done = () => { console.log(said.join(' ')); process.exit(0); };
ask(3);
""".replace("ADDRESS", WEB).replace("PATH", path)
    done = subprocess.run(["node", "-e", script], capture_output=True, check=False, timeout=30)
    return done.stdout.decode().split() or [done.stderr.decode()]


def python(path: str) -> list[str]:
    said = []
    connection = http.client.HTTPConnection(WEB, 80, timeout=8)
    try:
        for _ in range(3):
            connection.request("POST", path, body=b"x" * 400_000, headers={"Host": "api.internal"})
            said.append(connection.getresponse().read().decode())
    except OSError as exc:
        said.append(type(exc).__name__)
    return said


@pytest.mark.parametrize("silent", [False, True])
def test_an_edit_ends_what_it_takes_away_and_nothing_else(task: HttpTask, silent: bool) -> None:
    task.rules(rule("http: [{path: /v1/*}, {path: /v2/*}]", SITE))
    asking = partial(keeps_asking, silent=silent)
    both = [running(task.pod, asking, SITE, PORT, head(path), 4.0) for path in ("/v1/x", "/v2/x")]
    time.sleep(1.0)
    task.rules(rule("http: [{path: /v1/x}, {path: /v3/*}]", SITE))
    kept, ended = (each() for each in both)
    assert kept == "open"
    assert ended in ("ended", DENIED)


@pytest.mark.parametrize("silent", [False, True])
def test_a_flow_that_is_older_than_the_rule_is_ended(task: HttpTask, silent: bool) -> None:
    task.rules(rule("", SITE, name="plain"), rule("", PLAIN, name="other"))
    asking = partial(keeps_asking, silent=silent)
    old, other = (running(task.pod, asking, each, PORT, GOOD, 4.0) for each in (SITE, PLAIN))
    time.sleep(1.0)
    task.rules(rule(API, SITE), rule("", PLAIN, name="other"))
    assert old() in ("ended", DENIED)
    assert other() == "open"
    assert task.sends(GOOD) == "ok"


def test_what_was_sent_unseen_ends_the_connection(task: HttpTask) -> None:
    """A rule without http let it pass for a while: nobody knows where its requests begin."""
    task.rules(rule(API, SITE))
    talking = running(task.pod, keeps_asking, SITE, PORT, GOOD, 8.0)
    silent = running(task.pod, partial(keeps_asking, silent=True), SITE, PORT, GOOD, 8.0)
    time.sleep(0.5)
    task.rules(rule(API, SITE), rule("", SITE, name="plain"))
    time.sleep(0.5)
    task.rules(rule(API, SITE))
    assert talking() in ("ended", DENIED)
    assert silent() == "open"


def test_a_long_upload_ends_when_its_request_is_taken_away(task: HttpTask) -> None:
    task.rules(rule("http: [{path: /v1/*}, {path: /v2/*}]", SITE))
    put = head("/v1/x", "Content-Length: 100000000", method="PUT")
    kept = running(task.pod, partial(sends, gap=0.05), SITE, PORT, put, *[b"x" * 1000] * 60)
    ended = running(
        task.pod, partial(sends, gap=0.05), SITE, PORT, *[put.replace(b"/v1", b"/v2"), *[b"x" * 1000] * 60]
    )
    time.sleep(1.0)
    task.rules(rule("http: [{path: /v1/x}]", SITE))
    assert kept() == "ok"
    assert ended() == DENIED


def test_a_policy_in_audit_reports_and_hinders_nothing(task: HttpTask) -> None:
    """In a namespace whose default lets pass what no policy speaks about."""
    task.world.write("observed.yaml", OBSERVED)
    pod = task.world.node.add_pod()
    text = pod_manifest(f"{task.dag}-o", pod.uid, pod.ipv4, task.dag)
    task.world.write(f"{task.dag}-o.yaml", text.replace("namespace: airflow", "namespace: observed"))
    text = policy(task.dag, rule(API, SITE), posture="audit").replace("namespace: airflow", "namespace: observed")
    task.world.write(f"{task.dag}-o-policy.yaml", text)
    writer = task.agent.node.writer
    assert eventually(lambda: pod.uid in writer.want.assignments and not writer.pending(), 20)
    time.sleep(0.5)
    for pieces in ((GOOD,), (BAD,), (b"nonsense",), (GOOD + head("/v1/..") + GOOD,), (GOOD[:9], GOOD[9:])):
        assert pod.run(sends, SITE, PORT, *pieces) == "ok", "it passes"
    time.sleep(0.7)
    audited = [each for each in task.world.outputs.seen_denials if each.endpoint.uid == pod.uid]
    assert {each.verdict for each in audited} == {Verdict.AUDIT}
    assert [each.reason for each in audited] == [
        DropReason.REQUEST, DropReason.NO_HTTP, DropReason.DOT_SEGMENT, DropReason.REQUEST_TOO_LONG,
    ]  # fmt: skip


def test_over_a_shared_address_only_the_names_of_its_rule_are_meant(task: HttpTask) -> None:
    name = "api.example.org"
    task.rules(
        "{name: dns, to: [{entity: dns}]}",
        f"{{name: web, to: [{{fqdn: {name}}}], ports: [{{port: {PORT}}}], http: [{{path: /v1/*}}]}}",
    )
    assert task.sends(head(host=name)) == "EACCES", "nobody has looked it up"
    assert task.pod.run(look_up, DNS, name) == [SITE]
    assert task.sends(head(host=name)) == "ok"
    assert task.sends(head(host="www.evil.net")) == DENIED
    assert task.denials() == [DropReason.NO_RULE, DropReason.REQUEST]


def test_connections_outlive_an_agent_and_are_judged_meanwhile(tmp_path: Path) -> None:
    """Another generation of programs reads on where the one before has stopped."""
    with ScratchNode() as node:
        world = World(node, tmp_path)
        pod, config, ready = node.add_pod(), world.config(), tmp_path / "ready"
        world.write("pod.yaml", pod_manifest("p", pod.uid, pod.ipv4, "web"))
        world.write("policy.yaml", policy("web", rule(API, SITE)))

        def send(*pieces: bytes) -> str:
            return pod.run(sends, SITE, PORT, *pieces)

        try:
            first = AgentProcess(config, ready)
            assert eventually(lambda: send(GOOD) == "ok" and send(BAD) == DENIED, 30)
            open_ = running(pod, partial(keeps_asking), SITE, PORT, POST, 50.0)
            cut = running(pod, partial(sends, gap=27.0), SITE, PORT, GOOD + GOOD[:20], GOOD[20:])
            time.sleep(1.0)
            first.kill()
            assert send(GOOD) == "ok"
            assert send(BAD) == "TIMEOUT late", "nobody ends it, and nothing of it leaves"
            second = AgentProcess(config, ready)
            assert ready.read_text() == "adopted"
            assert eventually(lambda: send(BAD) == DENIED, 10)
            assert send(GOOD) == "ok"
            assert (open_(), cut()) == ("open", "ok")
            assert not any(b"/admin" in data for data, _ in world.servers[SITE].received)
            assert second.stop() == 0, second.errors
        finally:
            world.dns.close()
            detach(node.bpffs / "dagwall")
