"""The kernel's sign of life is none of the computing thread's business, until that stands still (L6)."""

from __future__ import annotations

import threading

import pytest

from agent.config import Config
from agent.model.node_state import STANDS_STILL_SECONDS
from agent.node import heartbeat
from agent.node.heartbeat import Heartbeat


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Beats:
    """What map `config` gets."""

    def __init__(self) -> None:
        self.count = 0
        self.came = threading.Event()

    def __call__(self) -> None:
        self.count += 1
        self.came.set()


def test_a_writing_thread_that_computes_for_minutes_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """It wrote the beat itself: a compile of a minute, and the kernel let unknown pods pass."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    clock, beats = Clock(), Beats()
    heart = Heartbeat(beats, clock)
    heart.start()
    try:
        for _ in range(3):  # without a word of the writing thread
            beats.came.clear()
            clock.now += (STANDS_STILL_SECONDS - 1) / 3
            assert beats.came.wait(5)
    finally:
        heart.stop()
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}, "the map may be closed now"


def test_one_that_stands_still_is_not_and_is_again_when_it_moves() -> None:
    clock, beats = Clock(), Beats()
    heart = Heartbeat(beats, clock)
    heart.beat()
    clock.now += STANDS_STILL_SECONDS
    heart.beat()
    assert beats.count == 1
    heart.moves()
    heart.beat()
    assert beats.count == 2


def test_the_beat_outlives_any_revision_by_far() -> None:
    assert Config("n1").loss_grace_seconds <= STANDS_STILL_SECONDS
