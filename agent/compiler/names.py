"""DNS names as a tree: which patterns match the names below each of its nodes.

The kernel takes a name's longest node. So each node has all patterns that match there, its own and those of wider
wildcards; and the name that a wildcard stands below is a node too, since the wildcard does not mean it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.compiler.atoms import NAMED, AtomId, Members
from agent.model.policy import FqdnPeer
from agent.model.want import Classes, NameNode
from agent.semantics.names import WILDCARD, parents

NO_PATTERN: Members = frozenset()
NAMES = "DNS names, and names that wildcards stand below"


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
