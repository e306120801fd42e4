"""What every source of the cluster hands over, and how the agent takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.errors import InvalidObject
from agent.model.changes import Changes
from agent.model.cluster import Cluster, Settings
from agent.model.validated import ValidatedPolicy


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What is wrong, and where: `line` and `document` count from 1, 0 where the whole file is meant."""

    file: str
    line: int
    document: int
    error: InvalidObject

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.error}" if self.line else str(self.error)

    def __eq__(self, other: object) -> bool:
        """Errors are equal by their text."""
        return isinstance(other, Problem) and (self.file, str(self)) == (other.file, str(other))

    def __hash__(self) -> int:
        return hash((self.file, str(self)))


@dataclass(frozen=True, slots=True)
class Update:
    """A new snapshot, what differs from the last one, and everything that is wrong with the files now."""

    snapshot: Cluster
    changes: Changes
    problems: tuple[Problem, ...]

    def then(self, later: Update) -> Update:
        """Both as one step."""
        return Update(later.snapshot, self.changes | later.changes, later.problems)


class Source(Protocol):
    """Files, or the API: the rest of the agent does not know which.

    One thread calls `start`, then `read`, `rescan` and `configure`; any thread the others.
    """

    name: str
    whole_truth: bool  # a namespace that it does not hold is not managed (L2d)

    def start(self) -> Update:
        """What is known at once."""

    def read(self, timeout_seconds: float = 0.0) -> Update | None:
        """The next snapshot; None where nothing changed in time."""

    def rescan(self) -> Update | None:
        """Look again at what may have changed without an event."""

    def configure(self, change: Callable[[Settings], Settings]) -> Update | None:
        """The snapshot under other settings; None where they are the same."""

    def judgements(self) -> tuple[ValidatedPolicy, ...]:
        """Every policy and binding as it is there, valid or not, where statuses are written of them."""

    def stale_seconds(self) -> float:
        """How old what the source knows may be; 0 when it is new."""

    def trouble(self) -> str:
        """Why the agent cannot be called ready on account of its source; "" while it can."""

    def without_events(self) -> str:
        """Why changes come later than they could, though they come; "" while they do not."""

    def close(self) -> None:
        """No more reads."""
