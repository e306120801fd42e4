"""What a connection carries, held against what rules demand of it: `tls` and `http`."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.hello import Hello
from agent.model.policy import Demand, HttpMatch, Tls
from agent.model.request import CONNECT, Carried, Request
from agent.model.verdict import DropReason
from agent.semantics.names import matches
from agent.semantics.paths import matches_path


def failure(demands: Iterable[Demand], carried: Carried) -> DropReason:
    """Why it meets none of the demands; NONE: it meets one."""
    if isinstance(carried, Request):
        return _fails_requests([each for each in demands if isinstance(each, HttpMatch)], carried)
    return _fails_hellos([each for each in demands if isinstance(each, Tls)], carried)


def _fails_hellos(asked: list[Tls], hello: Hello) -> DropReason:
    if not asked:
        return DropReason.NO_HTTP
    if hello.fault:
        return hello.fault
    named = [each for each in asked if _is_named(each, hello)]
    begun = [each for each in named if each.start_tls is hello.start_tls]
    if any(each.encrypted or not hello.encrypted for each in begun):
        return DropReason.NONE
    return DropReason.ENCRYPTED_HELLO if begun else DropReason.START_TLS if named else hello.unknown


def _fails_requests(asked: list[HttpMatch], request: Request) -> DropReason:
    if not asked:
        return DropReason.NO_TLS
    if request.fault:
        return request.fault
    named = [each for each in asked if is_request(each, request)]
    if not named:
        return DropReason.REQUEST
    inside = [each.inside for each in named if each.inside is not None]
    if request.inside is None or len(inside) < len(named):
        return DropReason.NONE
    return _fails_hellos(inside, request.inside)


def is_request(match: HttpMatch, request: Request) -> bool:
    """All that it says must hold. Nobody means CONNECT who does not name it."""
    connects = request.method == CONNECT
    if (request.method not in match.methods) if match.methods else connects:
        return False
    if match.host and not matches(match.host, request.host):
        return False
    usual = 443 if connects else 80
    if request.port and request.port != (usual if match.port is None else match.port):
        return False
    return not match.path or matches_path(match.path, request.path)


def _is_named(tls: Tls, hello: Hello) -> bool:
    """Is the server's name, or that it has none, what the rule asks for?"""
    if not hello.name:
        return tls.nameless
    return not tls.names or any(matches(pattern, hello.name) for pattern in tls.names)
