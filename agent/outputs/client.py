"""The other end of the local API, for the command line."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.errors import DagwallError
from agent.outputs.questions import VERSION, UnknownName

QUEUE_SECONDS = 0.02
"""Until the next try where too many wait to be accepted."""


class Client:
    """One request a connection. Raises DagwallError with a sentence for people."""

    def __init__(self, path: Path, *, timeout_seconds: float = 30.0) -> None:
        self._path, self._timeout = path, timeout_seconds

    def ask(self, request: str, **fields: Any) -> Any:
        """The result of a request that has one answer."""
        for answer in self.answers({"request": request, **fields}):
            return checked(answer).get("result")
        raise DagwallError(f"{self._path}: the agent closed the connection without an answer")

    def follow(self, **fields: Any) -> Iterator[dict[str, Any]]:
        """Flows and denials as they come: {"item": ...}, {"lost": n}. Ends with the agent."""
        for answer in self.answers({"request": "flows", **fields, "follow": True}):
            if "item" in checked(answer) or "lost" in answer:
                yield answer

    def answers(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """As they come, refusals and all."""
        line = json.dumps({"version": VERSION, **request}) + "\n"
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(self._timeout)
                self._connect(connection)
                connection.sendall(line.encode("utf-8"))
                with connection.makefile("rb") as answers:
                    for answer in answers:
                        yield json.loads(answer)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            raise DagwallError(f"no agent answers on {self._path}: is `dagwall run` running here?") from exc
        except PermissionError as exc:
            raise DagwallError(f"ask the agent on {self._path}: permission denied: only root may ask") from exc
        except (OSError, ValueError) as exc:
            raise DagwallError(f"ask the agent on {self._path}: {exc}") from exc

    def _connect(self, connection: socket.socket) -> None:
        """A queue that is full for a moment is waited for, as a blocking socket would."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return connection.connect(str(self._path))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(QUEUE_SECONDS)


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that is no refusal. Raises DagwallError with the agent's sentence, UnknownName among them."""
    if answer.get("version") != VERSION:
        raise DagwallError(f"the agent speaks version {answer.get('version')!r}, this dagwall {VERSION}: update one")
    if "error" in answer:
        raise (UnknownName if answer.get("unknown") else DagwallError)(str(answer["error"]))
    return answer
