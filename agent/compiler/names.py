"""DNS names as a tree: which patterns match the names below each of its nodes.

The kernel takes a name's longest node. So each node has all patterns that match there, its own and those of wider
wildcards; and the name that a wildcard stands below is a node too, since the wildcard does not mean it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from agent.compiler.atoms import NAMED, AtomId, Members
from agent.model.hello import Hello
from agent.model.policy import FqdnPeer, HttpMatch, Tls
from agent.model.want import Classes, NameNode, RulesetId, ServerNode, Servers, Tunnels
from agent.semantics.names import WILDCARD, parents

NO_PATTERN: Members = frozenset()
NAMES = "DNS names, and names that wildcards stand below"
MOST_DEMANDS = 31
"""Different `tls`, and different entries of `http`, of one pod's policies that can be met: each has a bit."""
SERVERS, MOST_SERVERS = "TLS server names of rules, once for each kind of pod that has them", 30_000
EVERY_NAME: NameNode = ""


def name_nodes(asked: Mapping[AtomId, object]) -> dict[NameNode, Members]:
    """By node: the patterns that match it, and NAMED; nothing where none does. `asked`: atoms of any kind."""
    numbers = {atom.pattern: number for number, atom in asked.items() if isinstance(atom, FqdnPeer)}
    nodes = {node for pattern in numbers for node in (pattern, pattern.removeprefix(WILDCARD))}
    return {node: _members(node, numbers) for node in nodes}


def _members(node: NameNode, numbers: Mapping[str, AtomId]) -> Members:
    found = frozenset(numbers[pattern] for pattern in _around(node) if pattern in numbers)
    return found | {NAMED} if found else NO_PATTERN


def _around(name: str) -> Iterator[NameNode]:
    """The nodes that a name may fall to, or that a wildcard lies in, the longest first."""
    yield name
    yield from (WILDCARD + parent for parent in parents(name.removeprefix(WILDCARD)))


def classes_of_name(names: Mapping[NameNode, Classes], name: str) -> Classes | None:
    """Of the longest node; None: no pattern is about the name."""
    return next((names[node] for node in _around(name) if node in names), None)


def nodes_needed(patterns: Iterable[str]) -> int:
    """Entries of map `names`, at most."""
    return len({node for pattern in patterns for node in (pattern, pattern.removeprefix(WILDCARD))})


def server_nodes(
    ruleset: RulesetId, hellos: tuple[Tls, ...], requests: tuple[HttpMatch, ...] = ()
) -> dict[ServerNode, Servers]:
    """Entries of map `servers`: what these, each with the bit of its place, make of a hello, or of a host."""
    if not hellos and not requests:
        return {}
    nameless, encrypted = bits_of(each.nameless for each in hellos), bits_of(each.encrypted for each in hellos)
    start = bits_of(each.start_tls is not None for each in hellos)
    inside = [each.inside for each in requests]
    tunnels = _tunnels(inside)
    named = [(each.names, 1 << number) for number, each in enumerate(hellos)]
    hosts = [((each.host,) if each.host else (), 1 << number) for number, each in enumerate(requests)]
    tunnelled = [(each.names, 1 << number) for number, each in enumerate(inside) if each is not None]
    patterns = {pattern for names, _ in (*named, *hosts, *tunnelled) for pattern in names}
    found: dict[ServerNode, Servers] = {}
    for node in {EVERY_NAME, *(node for pattern in patterns for node in (pattern, pattern.removeprefix(WILDCARD)))}:
        around = set(_around(node)) if node else set[str]()
        here = replace(tunnels, named=tunnels.any | _naming(tunnelled, around))
        found[ruleset, node] = Servers(
            _naming(named, around), nameless, encrypted, _naming(hosts, around), start, here
        )
    return found


def _tunnels(inside: list[Tls | None]) -> Tunnels:
    """As far as no name decides."""
    anything = bits_of(each is None for each in inside)
    nameless = bits_of(each is not None and each.nameless for each in inside)
    encrypted = bits_of(each is not None and each.encrypted for each in inside)
    return Tunnels(anything, anything, anything | nameless, anything | encrypted)


def tunnel_bits(servers: Servers, hello: Hello) -> tuple[int, int]:
    """What a hello inside of a tunnel leaves of the bits of requests, by its name, and by its encryption too."""
    tunnels = servers.tunnels
    if hello.fault:
        return tunnels.any, tunnels.any
    named = tunnels.named if hello.name else tunnels.nameless
    return named, named & tunnels.encrypted if hello.encrypted else named


def _naming(each: Iterable[tuple[tuple[str, ...], int]], around: Collection[NameNode]) -> int:
    """The bits of those that name no name, or one of these."""
    return sum(bit for names, bit in each if not names or any(name in around for name in names))


def servers_of_name(servers: Mapping[ServerNode, Servers], ruleset: RulesetId, name: str) -> Servers:
    """Of the longest node; "": of a hello without a name."""
    nodes = (*_around(name), EVERY_NAME) if name else (EVERY_NAME,)
    return next((servers[ruleset, node] for node in nodes if (ruleset, node) in servers), Servers(0))


def bits_of(each: Iterable[bool]) -> int:
    """A bit for each place that holds."""
    return sum(1 << number for number, holds in enumerate(each) if holds)
