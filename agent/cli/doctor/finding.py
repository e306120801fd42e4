"""What a check says: how bad it is, what was found, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from agent.cli.doctor.facts import Facts


class Level(str, Enum):
    OK = "ok"
    WARNS = "warns"  # works, and something is not covered or costs
    FAILS = "fails"  # would not work, or would not hold


@dataclass(frozen=True, slots=True)
class Finding:
    """`do` is empty where nothing is to be done."""

    level: Level
    what: str
    found: str
    do: str = ""


Check = Callable[[Facts], Iterator[Finding]]
