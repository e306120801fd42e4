"""What a C compiler is asked to confirm, before any byte crosses the boundary: by the loader and by tests/layout."""

from __future__ import annotations

from collections.abc import Iterable

from agent.abi.layout import Layout


def claims(layout: Layout) -> list[str]:
    """Size of the struct, and offset and size of each field, as C expressions."""
    lines = [f"sizeof(struct {layout.name}) == {layout.size}"]
    for field, of in layout.fields.items():
        lines.append(f"__builtin_offsetof(struct {layout.name}, {field}) == {layout.offsets[field]}")
        lines.append(f"sizeof(((struct {layout.name} *)0)->{field}) == {of.size}")
    return lines


def static_assertions(lines: Iterable[str]) -> str:
    """C text that does not compile unless every line holds."""
    return "\n".join(f'_Static_assert({line}, "{line}");' for line in lines)
