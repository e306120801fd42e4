"""Requests of rules with `http`, as entries of map `parts`: which rules each part of a request leaves.

A request's method, its path from both ends, and the port that a proxy is asked for are looked up each by itself, the
longest entry counts, and what all of them leave is what the request matches. Its host is in map `servers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.compiler.names import bits_of, servers_of_name
from agent.model.policy import HttpMatch
from agent.model.request import CONNECT, END, METHOD, PATH, PATH_END, PROXIED, TUNNEL, Request
from agent.model.want import PartNode, Parts, RulesetId, ServerNode, Servers
from agent.semantics.paths import ANY_RUN, matches_path

PARTS, MOST_PARTS = "methods and paths of rules with http, once for each kind of pod that has them", 30_000
HTTP_PORT, HTTPS_PORT = 80, 443


def part_nodes(ruleset: RulesetId, requests: tuple[HttpMatch, ...]) -> dict[PartNode, Parts]:
    """Entries of map `parts`; each request has the bit of its place."""
    if not requests:
        return {}
    from_behind = bits_of(bool(_ends(each)[1]) for each in requests)

    def node(leaves: Iterable[bool]) -> Parts:
        return Parts(bits_of(leaves), from_behind)

    found = {METHOD: node(not each.methods for each in requests)}
    for method in {CONNECT, *(method for each in requests for method in each.methods)}:
        found[method_part(method)] = node(_has_method(each, method) for each in requests)
    for text in {"", *(_ends(each)[0] for each in requests if _is_open(each))}:
        found[PATH + text.encode("latin-1")] = node(_begins(each, text) for each in requests)
    for text in {text for each in requests for text in _exact(each)}:
        found[PATH + text.encode("latin-1") + END] = node(
            not each.path or matches_path(each.path, text) for each in requests
        )
    for text in {"", *(_ends(each)[1] for each in requests)}:
        found[PATH_END + text.encode("latin-1")[::-1]] = node(text.endswith(_ends(each)[1]) for each in requests)
    for kind, usual in ((PROXIED, HTTP_PORT), (TUNNEL, HTTPS_PORT)):
        ports = [usual if each.port is None else each.port for each in requests]
        for port in {usual, *ports}:
            found[port_part(kind, port)] = node(port == each for each in ports)
    return {(ruleset, text): parts for text, parts in found.items()}


def method_part(method: str) -> bytes:
    return METHOD + method.encode("latin-1") + END


def port_part(kind: bytes, port: int) -> bytes:
    return kind + port.to_bytes(2, "big")


def _has_method(each: HttpMatch, method: str) -> bool:
    return method in each.methods if each.methods else method != CONNECT


def _is_open(each: HttpMatch) -> bool:
    return ANY_RUN in each.path


def _ends(each: HttpMatch) -> tuple[str, str]:
    """What stands before and behind the `*` of its path."""
    before, _, after = each.path.partition(ANY_RUN)
    return before, after


def _begins(each: HttpMatch, text: str) -> bool:
    """May each path that begins with this text match, as far as its beginning goes?"""
    return not each.path or (_is_open(each) and text.startswith(_ends(each)[0]))


def _exact(each: HttpMatch) -> Iterator[str]:
    """Paths that must not be judged by their ends: those of a pattern without `*`, and of one with a `*`
    those in which its two ends overlap."""
    if not each.path:
        return
    if not _is_open(each):
        yield each.path
        return
    before, after = _ends(each)
    for common in range(1, min(len(before), len(after)) + 1):
        if before.endswith(after[:common]):
            yield before + after[common:]


def requests_of(
    servers: Mapping[ServerNode, Servers], parts: Mapping[PartNode, Parts], ruleset: RulesetId, request: Request
) -> int:
    """The bits of all that a request matches, step by step as bpf/request_match.c asks."""
    if request.fault:
        return 0
    path = request.path.encode("latin-1")

    def longest(text: bytes) -> Parts:
        ends = range(len(text), 0, -1)
        return next((parts[ruleset, text[:end]] for end in ends if (ruleset, text[:end]) in parts), Parts(0))

    forward = longest(PATH + path + END)
    bits = (
        longest(method_part(request.method)).bits
        & forward.bits
        & servers_of_name(servers, ruleset, request.host).hosts
    )
    if bits & forward.from_behind:
        bits &= longest(PATH_END + path[::-1]).bits
    if request.port:
        kind = TUNNEL if request.method == CONNECT else PROXIED
        bits &= longest(port_part(kind, request.port)).bits
    return bits
