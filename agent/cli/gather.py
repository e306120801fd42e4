"""The same question to the agents of many nodes, side by side; who did not answer, and why."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.errors import ApiError, DagwallError
from agent.outputs.questions import UnknownName

AT_ONCE = 64
"""Nodes that are asked at the same moment."""

Question = Callable[[str], Any]
"""Asks one node by name. Raises ApiError where there is no way to it, else DagwallError with what it answered:
UnknownName where it knows no such name.
"""


@dataclass(frozen=True, slots=True)
class Gathered:
    """By node: `results`; `unknown`, that it knows no such name; `missing`, why else there is no result."""

    results: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, DagwallError] = field(default_factory=dict)

    def refusal(self) -> str:
        """What all agents answered in the same words, such as that a field is wrong; "" where some did not."""
        said = {str(error) for error in self.missing.values() if not isinstance(error, ApiError)}
        same = len(said) == 1 and not any(isinstance(error, ApiError) for error in self.missing.values())
        return said.pop() if same and not self.results else ""


def gather(nodes: Iterable[str], ask: Question, seconds: float) -> Gathered:
    """Asks all nodes, each for at most so long. A node that hangs costs its own time, and is abandoned then."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    names = list(nodes)
    for name in names:
        waiting.put(name)
    for _ in range(min(AT_ONCE, len(names))):
        threading.Thread(target=_work, args=(waiting, answers, ask), daemon=True).start()
    rounds = -(-len(names) // AT_ONCE)
    deadline = time.monotonic() + seconds * rounds + 1
    found: dict[str, Any] = {}
    while len(found) < len(names):
        try:
            name, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[name] = answer
    late = ApiError(f"no answer within {seconds:g} s", 0)
    return _sorted({name: found.get(name, late) for name in names})


def _work(
    waiting: queue.SimpleQueue[str], answers: queue.SimpleQueue[tuple[str, Any]], ask: Question
) -> None:  # fmt: skip
    while True:
        try:
            name = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            answers.put((name, ask(name)))
        except DagwallError as exc:
            answers.put((name, exc))
        except Exception as exc:  # noqa: BLE001  one node's answer may be anything: the others count all the same
            answers.put((name, ApiError(f"{type(exc).__name__}: {exc}", 0)))


def _sorted(found: Mapping[str, Any]) -> Gathered:
    results: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    missing: dict[str, DagwallError] = {}
    for name, answer in sorted(found.items()):
        if isinstance(answer, UnknownName):
            unknown[name] = str(answer)
        elif isinstance(answer, DagwallError):
            missing[name] = answer
        else:
            results[name] = answer
    return Gathered(results, unknown, missing)
