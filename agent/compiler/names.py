"""DNS names as a tree: which patterns match the names below each of its nodes.

The kernel takes a name's longest node. So each node has all patterns that match there, its own and those of wider
wildcards; and the name that a wildcard stands below is a node too, since the wildcard does not mean it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

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
    named = [(each.names, 1 << number) for number, each in enumerate(hellos)]
    hosts = [((each.host,) if each.host else (), 1 << number) for number, each in enumerate(requests)]
    inside = [(each.inside.names, 0) for each in requests if each.inside is not None]
    patterns = {pattern for names, _ in (*named, *hosts, *inside) for pattern in names}
    nodes = {node for pattern in patterns for node in (pattern, pattern.removeprefix(WILDCARD))}
    return {
        (ruleset, node): Servers(
            _naming(named, node), nameless, encrypted, _naming(hosts, node), start, _tunnels(requests, node)
        )
        for node in (EVERY_NAME, *nodes)
    }


def _tunnels(requests: tuple[HttpMatch, ...], node: NameNode) -> Tunnels:
    inside = [each.inside for each in requests]
    anything = bits_of(each is None for each in inside)
    named = _naming([(each.names, 1 << number) for number, each in enumerate(inside) if each is not None], node)
    return Tunnels(
        anything,
        anything | named,
        anything | bits_of(each is not None and each.nameless for each in inside),
        anything | bits_of(each is not None and each.encrypted for each in inside),
    )


def tunnel_bits(servers: Servers, hello: Hello) -> tuple[int, int]:
    """What a hello inside of a tunnel leaves of the bits of requests, by its name, and by its encryption too."""
    tunnels = servers.tunnels
    if hello.fault:
        return tunnels.any, tunnels.any
    named = tunnels.named if hello.name else tunnels.nameless
    return named, named & tunnels.encrypted if hello.encrypted else named


def _naming(each: Iterable[tuple[tuple[str, ...], int]], node: NameNode) -> int:
    """The bits of those that name no name, or one around this node."""
    around = set(_around(node)) if node else set[str]()
    return sum(bit for names, bit in each if not names or not around.isdisjoint(names))


def servers_of_name(servers: Mapping[ServerNode, Servers], ruleset: RulesetId, name: str) -> Servers:
    """Of the longest node; "": of a hello without a name."""
    nodes = (*_around(name), EVERY_NAME) if name else (EVERY_NAME,)
    return next((servers[ruleset, node] for node in nodes if (ruleset, node) in servers), Servers(0))


def bits_of(each: Iterable[bool]) -> int:
    """A bit for each place that holds."""
    return sum(1 << number for number, holds in enumerate(each) if holds)
