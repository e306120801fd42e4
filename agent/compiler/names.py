"""DNS names as a tree: which patterns match the names below each of its nodes.

The kernel takes a name's longest node. So each node has all patterns that match there, its own and those of wider
wildcards; and the name that a wildcard stands below is a node too, since the wildcard does not mean it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.compiler.atoms import NAMED, AtomId, Members
from agent.model.policy import FqdnPeer, Tls
from agent.model.want import Classes, NameNode, RulesetId, ServerNode, Servers
from agent.semantics.names import WILDCARD, parents

NO_PATTERN: Members = frozenset()
NAMES = "DNS names, and names that wildcards stand below"
HELLOS, MOST_HELLOS = "different `tls` in rules of the policies that select one pod", 32
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


def server_nodes(ruleset: RulesetId, hellos: tuple[Tls, ...]) -> dict[ServerNode, Servers]:
    """Entries of map `servers`: what these, each with the bit of its place, make of a hello."""
    if not hellos:
        return {}
    every = _bits(not each.names for each in hellos)
    nameless, encrypted = _bits(each.nameless for each in hellos), _bits(each.encrypted for each in hellos)
    by_pattern: dict[NameNode, int] = {}
    for number, each in enumerate(hellos):
        for pattern in each.names:
            by_pattern[pattern] = by_pattern.get(pattern, 0) | 1 << number
    found = {(ruleset, EVERY_NAME): Servers(every, nameless, encrypted)}
    for node in {node for pattern in by_pattern for node in (pattern, pattern.removeprefix(WILDCARD))}:
        named = every
        for pattern in _around(node):
            named |= by_pattern.get(pattern, 0)
        found[ruleset, node] = Servers(named, nameless, encrypted)
    return found


def servers_of_name(servers: Mapping[ServerNode, Servers], ruleset: RulesetId, name: str) -> Servers:
    """Of the longest node; "": of a hello without a name."""
    nodes = (*_around(name), EVERY_NAME) if name else (EVERY_NAME,)
    return next((servers[ruleset, node] for node in nodes if (ruleset, node) in servers), Servers(0))


def _bits(each: Iterable[bool]) -> int:
    return sum(1 << number for number, holds in enumerate(each) if holds)
