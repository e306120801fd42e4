"""Does a revision fit into the kernel's maps? Asked before anything of it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from agent.errors import CapacityError
from agent.model.want import Want


def fits_into(entries: Mapping[str, int]) -> Callable[[Want], None]:
    """A check against the sizes of these maps; raises CapacityError naming the map, the need and the largest part.

    A revision is written before what it replaces is deleted, so that both must fit: a map counts as full at 90 %.
    """

    def check(want: Want) -> None:
        for name in ("peers", "hosts", "rules"):
            need, room = len(getattr(want, name)), entries[name] * 9 // 10
            if need > room:
                hint = _largest_ruleset(want) if name == "rules" else ""
                raise CapacityError(
                    f"map {name}: {need} entries are needed, {room} of {entries[name]} may be used{hint}"
                )

    return check


def _largest_ruleset(want: Want) -> str:
    ((ruleset, rows),) = Counter(key.ruleset for key in want.rules).most_common(1)
    users = [str(a.identity) for a in want.assignments.values() if a.ruleset == ruleset]
    return f"; the largest ruleset has {rows} and is that of {users[0] if users else 'no endpoint'}"
