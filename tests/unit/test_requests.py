"""Rules with `http`: paths in normal form, and what the maps make of a request."""

from __future__ import annotations

from ipaddress import ip_network
from random import Random

import pytest

from agent.abi.structs import (
    CLASSES,
    ENDPOINT,
    EVENT,
    GREETING,
    PREFIX,
    REQUEST,
    REQUEST_EVENT,
    RULE,
    TEXT_ROOM,
    pack_rule_key,
)
from agent.compiler.admission import Admission
from agent.compiler.names import server_nodes
from agent.compiler.parts import part_nodes, requests_of
from agent.flows.decode import decode_event
from agent.judge.demands import is_request
from agent.model.policy import CidrPeer, HttpMatch, Policy, PortMatch, Rule, Subject, Tls
from agent.model.request import PATH, Request
from agent.model.verdict import Direction, DropReason, EventKind, Verdict
from agent.model.want import RulesetId
from agent.outputs.words import demands_text, request_text
from agent.semantics.paths import matches_path, normal_path, shown
from agent.sync.carried import Greeting
from agent.sync.entries import pack_part, pack_parts, pack_server, pack_servers
from agent.sync.verdicts import tcp_verdict
from tests.unit import clusters
from tests.unit.test_hellos import BASE, EVERY_PORT, PEER, Maps, ref, taken

ONE = RulesetId(1)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/%61%7E%2d", "/a~-"),
        ("/dagRuns/manual__2024-01-01T00%3A00%3A00%2B00%3A00", "/dagRuns/manual__2024-01-01T00:00:00+00:00"),
        ("/a%2Fb%2fc", "/a\x01b\x01c"),
        ("/%C3%BC", "/\xc3\xbc"),
        ("/a%20b", "/a b"),
        ("/a/b/", "/a/b/"),
        ("/.well-known/..a/b..", "/.well-known/..a/b.."),
        ("*", "*"),
    ],
)
def test_a_path_in_normal_form(written: str, path: str) -> None:
    assert normal_path(written) == (path, DropReason.NONE)
    assert normal_path(shown(path).replace("ü", "%C3%BC").replace(" ", "%20")) == (path, DropReason.NONE)


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("", "BROKEN_REQUEST"),
        ("a", "BROKEN_REQUEST"),
        ("//a", "BROKEN_REQUEST"),
        ("/a#b", "BROKEN_REQUEST"),
        ("/a\\b", "BROKEN_REQUEST"),
        ("/a b", "BROKEN_REQUEST"),
        ("/\xfc", "BROKEN_REQUEST"),
        ("/%", "BAD_ESCAPE"),
        ("/%4", "BAD_ESCAPE"),
        ("/%4g", "BAD_ESCAPE"),
        ("/%u0041", "BAD_ESCAPE"),
        ("/%00", "BAD_ESCAPE"),
        ("/%0a", "BAD_ESCAPE"),
        ("/%7f", "BAD_ESCAPE"),
        ("/%25%32%65", "BAD_ESCAPE"),
        ("/%5c", "BAD_ESCAPE"),
        ("/%c0%ae", "BAD_ESCAPE"),
        ("/.", "DOT_SEGMENT"),
        ("/a/..", "DOT_SEGMENT"),
        ("/a/../b", "DOT_SEGMENT"),
        ("/a/./b", "DOT_SEGMENT"),
        ("/a/%2e%2E/b", "DOT_SEGMENT"),
        ("/a/.%2e/b", "DOT_SEGMENT"),
        ("/a%2f..%2fb", "DOT_SEGMENT"),
        ("/a/..;x/b", "BROKEN_REQUEST"),
        ("/a/..%3bx/b", "BAD_ESCAPE"),
        ("/a//b", "DOT_SEGMENT"),
        ("/a//", "DOT_SEGMENT"),
        ("/%2fa", "DOT_SEGMENT"),
        ("/a%2f/b", "DOT_SEGMENT"),
        ("/a%2f%2fb", "DOT_SEGMENT"),
        ("/a/..%3bx", "BAD_ESCAPE"),
    ],
)
def test_what_servers_understand_differently_is_no_path(written: str, fault: str) -> None:
    assert normal_path(written) == ("", DropReason[fault])


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/v1/jobs", ["/v1/jobs"], ["/v1/jobs/", "/v1/job", "/V1/jobs"]),
        ("/v1/*", ["/v1/", "/v1/a/b"], ["/v1", "/v2/"]),
        ("/*.json", ["/.json", "/a/b.json"], ["/a.jsonx"]),
        ("/v1/*/runs", ["/v1/a/runs", "/v1/a/b/runs"], ["/v1/runs", "/v1/a/runs/"]),
        ("/aba*aba", ["/abaaba", "/abaXaba"], ["/aba", "/ababa"]),
        ("/*", ["/", "/a"], ["*", ""]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    match = HttpMatch(path=pattern)
    parts, servers = part_nodes(ONE, (match,)), server_nodes(ONE, (), (match,))
    for path in (*matching, *others):
        assert matches_path(pattern, path) == (path in matching)
        assert requests_of(servers, parts, ONE, Request("GET", "a.b", path)) == int(path in matching), path


def test_maps_and_judge_agree() -> None:
    """Each part looked up by itself leaves what the whole request matches."""
    seen = set[bool]()
    for seed in range(300):
        r = Random(seed)
        matches = tuple(dict.fromkeys(each for _ in range(r.randint(1, 6)) for each in clusters.http(r)))
        servers, parts = server_nodes(ONE, (), matches), part_nodes(ONE, matches)
        for _ in range(60):
            request = clusters.request(r)
            bits = requests_of(servers, parts, ONE, request)
            for number, match in enumerate(matches):
                should = not request.fault and is_request(match, request)
                assert bool(bits >> number & 1) == should, f"{seed} {match} {request}"
                seen.add(should)
    assert seen == {True, False}


def test_no_part_is_longer_than_a_key() -> None:
    longest = HttpMatch(("OPTIONS",), "a" * 63 + ".b", "/" + "c" * 119 + "*" + "d" * 119)
    assert max(len(text) for _, text in part_nodes(ONE, (longest,))) <= 249
    assert (ONE, PATH + b"/" + b"c" * 119) in part_nodes(ONE, (longest,))


def policy(name: str, *matches: HttpMatch) -> Policy:
    peer, port = CidrPeer(ip_network("192.0.2.0/24")), PortMatch(6, 443)
    return Policy(ref(name), Subject(), egress=(Rule("r", Direction.EGRESS, (peer,), (port,), http=matches),))


def test_a_kernel_that_cannot_judge_requests_takes_no_policy_that_asks_for_some() -> None:
    """P18: it never weakens to a policy without them."""
    plain = Policy(ref("q"), Subject(), egress=())
    compiler, errors, found = taken(policy("p", HttpMatch(path="/a")), plain, admission=Admission(requests=False))
    lacks = "it lacks feature shared_frags, write_seq or sockops"
    assert errors == [f"{ref('p')}: has rules with http, which this kernel cannot judge: {lacks}"]
    assert found == {ref("q")}
    assert not compiler.want.parts


def test_more_requests_than_a_row_has_bits_for_allow_nothing_and_everything_else_of_the_policy_holds() -> None:
    """P17: nobody else's policy, and no deny rule, is lost; equal ones are one; those of the cluster come first."""
    many = tuple(HttpMatch(path=f"/{i}") for i in range(32))
    assert taken(policy("big", *many[:31]), policy("small", many[0], many[1]))[1:] == ([], {ref("big"), ref("small")})
    compiler, errors, found = taken(policy("big", *many), policy("small", HttpMatch(path="/other")))
    assert found == {ref("big"), ref("small")}
    of_each = (
        "allow nothing: 31 of each kind count in the policies of one pod, those of the cluster first, then by name"
    )
    assert errors == [
        f"{ref(name)}: 1 of its different `tls` and entries of `http` {of_each}" for name in ("big", "small")
    ]
    asked = {row.requests for rows in compiler.want.rules.values() for row in [rows] if row.requests}
    assert all(row >> 31 for row in asked), "no row is without a demand because one of its has no bit"
    assert {part.bits >> 31 for part in compiler.want.parts.values()} == {0}


MATCHES = (
    HttpMatch(("GET",), "api.internal", "/v1/*"),
    HttpMatch(path="/*.json"),
    HttpMatch(("CONNECT",), "*.b.org"),
)


def stored(method: str, host: str, path: str = "", port: int = 0, **fields: int) -> bytes:
    """As the kernel keeps a request."""
    connects = method == "CONNECT"
    texts = [method, host if port else "", "" if connects else host, path]
    text = b"".join(each.encode("latin-1").ljust(TEXT_ROOM, b"\0") for each in texts)
    count = [int(not connects), 0, 0, 0, int(bool(port) and not connects), int(connects)]
    fixed = {"carries": 1, "made": 1, "used": [len(each) for each in texts], "count": count, "text": text}
    return REQUEST.pack(**fixed | {"number": [0, 0, port, 0]} | fields)


def known(*request: str, **fields: int) -> bytes:
    """By the ruleset that is in force."""
    return REQUEST.pack(**{**REQUEST.unpack(stored(*request, **fields)), "key": pack_server((ONE, ""))})


def verdict_of(
    greeting: Greeting, requests: int = 0b111, matches: tuple[HttpMatch, ...] = MATCHES, **row: int
) -> Verdict:
    """Of an open connection to PEER whose row asks for these."""
    maps = Maps(
        peers={PREFIX.pack(length=128, address=PEER): CLASSES.pack(peer=5, base=5)},
        rules={
            pack_rule_key(1, 5, int(Direction.EGRESS), EVERY_PORT): RULE.pack(
                verdict=int(Verdict.ALLOW), requests=requests, **row
            )
        },
        servers={pack_server(k): pack_servers(v) for k, v in server_nodes(ONE, (), matches).items()},
        parts={pack_part(k): pack_parts(v) for k, v in part_nodes(ONE, matches).items()},
    )
    endpoint = ENDPOINT.unpack(ENDPOINT.pack(**BASE))
    return tcp_verdict(maps, endpoint, Direction.EGRESS, PEER, 443, greeting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "verdict"),
    [
        (stored("GET", "api.internal", "/v1/x"), Verdict.ALLOW),
        (stored("POST", "api.internal", "/v1/x"), Verdict.DENY),
        (stored("GET", "evil.net", "/v1/x"), Verdict.DENY),
        (stored("GET", "evil.net", "/v1/x.json"), Verdict.ALLOW),
        (stored("GET", "[2001:db8::1]", "/v1/x"), Verdict.DENY),
        (stored("GET", "api.internal", "/v1/x", 80), Verdict.ALLOW),
        (stored("GET", "api.internal", "/v1/x", 8080), Verdict.DENY),
        (stored("CONNECT", "a.b.org", "", 443, carries=3), Verdict.ALLOW),
        (stored("CONNECT", "a.b.org", "", 22, carries=3), Verdict.DENY),
        (stored("POST", "api.internal", "/v1/x", in_head=1), Verdict.DENY),
        (stored("POST", "api.internal", "/v1/x", in_head=1, made=0), Verdict.ALLOW),
        (known("POST", "api.internal", "/v1/x", in_head=1, common=1), Verdict.ALLOW),
        (known("POST", "api.internal", "/v1/x", in_head=1), Verdict.ALLOW),
        (stored("GET", "api.internal", "/v1/x", in_head=1, cleared=1, made=0), Verdict.ALLOW),
        (stored("POST", "api.internal", "/v1/x", in_head=1, cleared=1, made=0), Verdict.DENY),
        (stored("GET", "api.internal", "/v1/x", made=2), Verdict.DENY),
        (stored("GET", "api.internal", "/v1/x", made=2, common=4), Verdict.ALLOW),
        (known("GET", "api.internal", "/v1/x", made=2), Verdict.ALLOW),
        (known("GET", "api.internal", "/v1/x", made=2, common=1), Verdict.ALLOW),
        (known("GET", "api.internal", "/v1/x", made=2, common=2), Verdict.DENY),
        (stored("GET", "api.internal", "/v1/x", fault=24), Verdict.DENY),
        (stored("GET", "api.internal", "/v1/x", carries=4), Verdict.DENY),
        (stored("", "", made=0), Verdict.ALLOW),
        (stored("", "", carries=0), Verdict.DENY),
        (None, Verdict.DENY),
    ],
)
def test_an_open_connection_is_judged_by_its_last_request(request_: bytes | None, verdict: Verdict) -> None:
    """P10: also where it is silent, and where earlier ones may be answered still."""
    greeting = Greeting(request=request_, has_sent=True)
    assert verdict_of(greeting) is verdict
    assert verdict_of(greeting, flags=1) is Verdict.ALLOW, "in audit"
    assert verdict_of(greeting, requests=0) is Verdict.ALLOW
    assert verdict_of(Greeting(has_sent=False)) is Verdict.ALLOW


SECURED = (
    HttpMatch(("CONNECT",), "*.b.org", inside=Tls(("a.b.org",))),
    HttpMatch(("CONNECT",), "x.b.org", inside=Tls(nameless=True, encrypted=True)),
    HttpMatch(("CONNECT",), "plain.b.org"),
)


def begun(name: str, **fields: int) -> bytes:
    """As the kernel keeps a hello."""
    return GREETING.pack(key=pack_server((ONE, name)), **{"seen": 1} | fields)


@pytest.mark.parametrize(
    ("host", "hello", "verdict"),
    [
        ("a.b.org", begun("a.b.org"), Verdict.ALLOW),
        ("a.b.org", begun("x.b.org"), Verdict.DENY),
        ("a.b.org", begun(""), Verdict.DENY),
        ("a.b.org", begun("a.b.org", encrypted=1), Verdict.DENY),
        ("a.b.org", begun("a.b.org", fault=16), Verdict.DENY),
        ("a.b.org", begun("", seen=0), Verdict.ALLOW),
        ("a.b.org", None, Verdict.ALLOW),
        ("x.b.org", begun("evil.net"), Verdict.ALLOW),
        ("x.b.org", begun("", encrypted=1), Verdict.ALLOW),
        ("x.b.org", begun("", fault=16), Verdict.DENY),
        ("plain.b.org", begun("", fault=16), Verdict.ALLOW),
        ("plain.b.org", begun("evil.net", encrypted=1), Verdict.ALLOW),
    ],
)
def test_an_open_tunnel_is_judged_by_what_it_began_with(host: str, hello: bytes | None, verdict: Verdict) -> None:
    greeting = Greeting(hello, stored("CONNECT", host, "", 443, carries=3), has_sent=True)
    assert verdict_of(greeting, matches=SECURED) is verdict


def test_a_denial_tells_its_request() -> None:
    event = EVENT.pack(kind=int(EventKind.DENIED), peer=PEER, direction=0, protocol=6, reason=24)
    found = decode_event(
        REQUEST_EVENT.pack(event=event, method=b"GET\0x", host=b"api.internal\0", path=b"/a\x01b\xff\0", port=0)
    )
    assert found.request == Request("GET", "api.internal", "/a\x01b\xff")
    assert request_text(found.request) == "GET http://api.internal/a%2Fb\ufffd"
    assert found.reason is DropReason.REQUEST
    assert decode_event(event).request is None


def test_words_for_requests() -> None:
    assert demands_text(MATCHES) == (
        "GET of http://api.internal/v1/*, or a request of http://*/*.json, or CONNECT of http://*.b.org/*"
    )
    assert request_text(Request("CONNECT", "a.b.org", port=443)) == "CONNECT a.b.org:443"
