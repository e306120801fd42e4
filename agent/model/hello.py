"""What a TCP connection began with, as far as rules with `tls` ask about it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.policy import StartTls
from agent.model.verdict import DropReason


@dataclass(frozen=True, slots=True)
class Hello:
    """A TLS ClientHello: `name` in lower case, "" where it has none. `fault`: why it is none that can be judged.
    `start_tls`: what has come before it."""

    name: str = ""
    encrypted: bool = False
    fault: DropReason = DropReason.NONE
    start_tls: StartTls | None = None

    @property
    def unknown(self) -> DropReason:
        """Why it is denied where no rule is on its name."""
        return DropReason.SERVER_NAME if self.name else DropReason.NO_SERVER_NAME
