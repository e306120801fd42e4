"""Rules with `http`: paths in normal form, and what the maps make of a request."""

from __future__ import annotations

from random import Random

import pytest

from agent.compiler.names import server_nodes
from agent.compiler.parts import part_nodes, requests_of
from agent.judge.judge import _is_request
from agent.model.policy import HttpMatch
from agent.model.request import PATH, Request
from agent.model.verdict import DropReason
from agent.model.want import RulesetId
from agent.semantics.paths import matches_path, normal_path, shown
from tests.unit import clusters

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
        ("/a//b", "/a//b"),
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
        ("/a/..;x/b", "DOT_SEGMENT"),
        ("/a/..%3bx", "DOT_SEGMENT"),
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
        ("/v1/*/runs", ["/v1/a/runs", "/v1/a/b/runs", "/v1//runs"], ["/v1/runs", "/v1/a/runs/"]),
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
                should = not request.fault and _is_request(match, request)
                assert bool(bits >> number & 1) == should, f"{seed} {match} {request}"
                seen.add(should)
    assert seen == {True, False}


def test_no_part_is_longer_than_a_key() -> None:
    longest = HttpMatch(("OPTIONS",), "a" * 63 + ".b", "/" + "c" * 119 + "*" + "d" * 119)
    assert max(len(text) for _, text in part_nodes(ONE, (longest,))) <= 249
    assert (ONE, PATH + b"/" + b"c" * 119) in part_nodes(ONE, (longest,))
