"""Shares of a thread's time: of an endpoint, of a namespace, and what is kept for those that take little."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from agent.flows.pacing import Pace


@dataclass
class Thread:
    """Work on a clock that goes on only by work, or to a time that a test says."""

    now: float = 0.0
    done: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pace = Pace(lambda: self.now, rate=0.1, most=0.2, own_rate=0.02, own_most=0.05)

    def ask(self, slot: int, namespace: str, seconds: float) -> None:
        self.asked[namespace] = self.asked.get(namespace, 0) + 1
        begun = self.pace.begins(slot, namespace)
        if begun is not None:
            self.now += seconds
            self.pace.ends(begun)
            self.done[namespace] = self.done.get(namespace, 0) + 1

    def until(self, seconds: float) -> None:
        self.now = max(self.now, seconds)


@pytest.mark.parametrize(("namespaces", "pods"), [(1, 5), (1, 20), (2, 20), (10, 5)])
def test_tenants_of_many_pods_leave_the_others_what_they_need(namespaces: int, pods: int) -> None:
    """S1: the answers of five pods of one namespace, 50 a second and pod, took the whole thread's share."""
    thread = Thread()
    for turn in range(50 * 60):
        for slot in range(namespaces * pods):
            thread.ask(slot, f"greedy{slot % namespaces}", 0.004)
        thread.until(turn / 50)
        if turn % 50 == 0:
            thread.ask(999, "victim", 0.0002)
    assert thread.done["victim"] == thread.asked["victim"] == 60
    assert thread.now < 61, "all of them together have a tenth"
    assert thread.pace.skipped == sum(thread.asked.values()) - sum(thread.done.values()) > 10_000


def test_a_namespace_has_half_and_an_endpoint_less() -> None:
    thread = Thread()
    for turn in range(100 * 60):
        thread.until(turn / 100)
        for slot in range(10):
            thread.ask(slot, "greedy", 0.001)
    assert thread.done["greedy"] * 0.001 == pytest.approx(60 * 0.1 / 2, rel=0.1)
    alone = Thread()
    for turn in range(100 * 60):
        alone.until(turn / 100)
        alone.ask(1, "greedy", 0.001)
    assert alone.done["greedy"] * 0.001 == pytest.approx(60 * 0.02, rel=0.1)
