"""DNS names, and the patterns of `fqdn` peers that they match."""

from __future__ import annotations

from collections.abc import Iterator

WILDCARD = "*."


def parents(name: str) -> Iterator[str]:
    """What is left of a name without its first label, without its first two, and so on."""
    while "." in name:
        _, name = name.split(".", 1)
        yield name


def matches(pattern: str, name: str) -> bool:
    """`*.example.org` means names of one or more labels more, not example.org itself. Both are in lower case."""
    if pattern.startswith(WILDCARD):
        return pattern[len(WILDCARD) :] in parents(name)
    return pattern == name
