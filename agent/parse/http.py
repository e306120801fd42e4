"""`http` of a rule: which requests its connections may carry."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address

from agent.model.policy import FqdnPeer, HttpMatch, Peer, PortMatch, Tls
from agent.model.request import CONNECT
from agent.model.verdict import Direction, DropReason
from agent.parse.fields import Field
from agent.parse.peers import MAX_PORT, parse_fqdn
from agent.parse.tls import MAX_NAME, refuse_datagrams
from agent.semantics.paths import ANY_RUN, normal_path

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
FIELDS = ("methods", "host", "path")
MAX_PATH = 240
MAX_ENTRIES = 32
"""Of one rule; of all rules of a pod together no more (agent/compiler/parts.py)."""
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def parse_http(
    item: Field, direction: Direction, peers: tuple[Peer, ...] | None, ports: tuple[PortMatch, ...] | None
) -> tuple[HttpMatch, ...]:
    """Of a rule; empty where it has none. Where an entry has no host the rule's fqdn peers say which are meant."""
    if not item.has("http"):
        return ()
    field = item.child("http")
    entries = list(field.items())
    if not entries:
        raise field.error("an empty list reads both ways; leave the field out to allow any bytes")
    if len(entries) > MAX_ENTRIES:
        raise field.error(f"has {len(entries)} entries; at most {MAX_ENTRIES} are allowed")
    found = tuple(dict.fromkeys(map(_entry, entries)))
    if direction is not Direction.EGRESS:
        raise field.error("belongs to rules of egress only")
    refuse_datagrams(item, field, peers, ports)
    found = tuple(dict.fromkeys(each for one in found for each in _of_peers(one, field, peers)))
    if len(found) > MAX_ENTRIES:
        raise field.error(
            f"means {len(found)} entries, one for each of the rule's names; at most {MAX_ENTRIES} are allowed"
        )
    return found


def secured_tunnels(field: Field, tls: Tls, http: tuple[HttpMatch, ...]) -> tuple[HttpMatch, ...]:
    """`tls` beside `http`: what the tunnels begin with. Without serverNames, for the host that CONNECT names."""
    if tls.start_tls is not None:
        raise field.child("startTls").error("has no meaning beside http")
    if not any(CONNECT in each.methods for each in http):
        raise field.error("beside http it says what tunnels begin with; an entry of http must have method CONNECT")
    return tuple(
        replace(each, inside=replace(tls, names=tls.names or _named(each))) if CONNECT in each.methods else each
        for each in http
    )


def _named(entry: HttpMatch) -> tuple[str, ...]:
    """A hello names no address (RFC 6066 section 3)."""
    return (entry.host,) if entry.host and not _is_ipv4(entry.host) else ()


def _of_peers(entry: HttpMatch, field: Field, peers: tuple[Peer, ...] | None) -> tuple[HttpMatch, ...]:
    """Over an address that several names share, the names of the rule are meant."""
    named = [peer.pattern for peer in peers or () if isinstance(peer, FqdnPeer)]
    if entry.host or CONNECT in entry.methods or not named:
        return (entry,)
    if len(named) < len(peers or ()):
        raise field.error("needs a host in each entry where some peers are fqdn and others are not, or two rules")
    if any(len(name) > MAX_NAME for name in named):
        raise field.error(f"needs fqdn peers of at most {MAX_NAME} characters")
    return tuple(replace(entry, host=name) for name in named)


def _entry(entry: Field) -> HttpMatch:
    if not entry.mapping(*FIELDS):
        raise entry.error("must have methods, host or path")
    methods = _methods(entry.child("methods"))
    host, port = _host(entry.child("host"))
    path = _path(entry.child("path"))
    if path and CONNECT in methods:
        raise entry.child("path").error("has no meaning with CONNECT; write an entry of its own for it")
    return HttpMatch(methods, host, path, port)


def _methods(field: Field) -> tuple[str, ...]:
    if field.absent:
        return ()
    for method in field.items():
        if method.string() not in METHODS:
            raise method.error(f"must be one of {', '.join(METHODS)}, not {str(method.value)[:60]!r}")
    found = tuple(dict.fromkeys(method.string() for method in field.items()))
    if not found:
        raise field.error("an empty list reads both ways; leave the field out to allow every method but CONNECT")
    return found


def _host(field: Field) -> tuple[str, int | None]:
    """A name, `*.` and a name, or an IPv4 address; and the port that a proxy is asked for."""
    if field.absent:
        return "", None
    text, colon, number = field.nonempty().partition(":")
    if colon and not (_PORT.fullmatch(number) and int(number) <= MAX_PORT):
        raise field.error(f"{number[:60]!r} is no port; allowed: 1 to {MAX_PORT}")
    if not _is_ipv4(text):
        text = parse_fqdn(Field(field.obj, field.path, text)).lower().rstrip(".")
    if len(text) > MAX_NAME:
        raise field.error(f"must have at most {MAX_NAME} characters")
    return text, int(number) if colon else None


def _is_ipv4(text: str) -> bool:
    try:
        return str(IPv4Address(text)) == text
    except ValueError:
        return False


def _path(field: Field) -> str:
    """In normal form, as requests are judged."""
    if field.absent:
        return ""
    text = field.nonempty()
    if not text.startswith("/"):
        raise field.error("must begin with '/'")
    if text.count(ANY_RUN) > 1:
        raise field.error("has more than one '*', which this version cannot judge; allowed: one, at any place")
    if ";" in text or "%3b" in text.lower():
        raise field.error("must have no ';': some servers cut what is behind it, and requests with one are denied")
    if "%2a" in text.lower():
        raise field.error("has an escaped '*', which this version cannot name; '*' stands for any run of characters")
    if "?" in text or "#" in text:
        raise field.error("must be a path alone: what stands behind '?' is not judged")
    written = "".join(f"%{byte:02X}" if byte > 0x7E or byte <= 0x20 else chr(byte) for byte in text.encode())
    path, fault = normal_path(written)
    if fault is DropReason.DOT_SEGMENT:
        raise field.error("must have no segment '.' or '..', nor an empty one: requests with such are denied")
    if fault is not DropReason.NONE:
        raise field.error(f"{text[:60]!r} is no path that can be judged; of escapes only %2F keeps its meaning")
    if len(path) > MAX_PATH:
        raise field.error(f"must have at most {MAX_PATH} bytes")
    return path
