"""The draining thread's inbox is bounded, and what finds no room in it is counted."""

from __future__ import annotations

from agent.app.drain import WAITING, Drain
from agent.app.folding import Folding
from agent.flows.account import Accountant
from agent.kernel.probe import Jiffies
from tests.kernel.agent_process import Nowhere
from tests.unit.test_app_folding import Kernel
from tests.unit.test_flows_join import EVENT


def test_a_flood_of_events_is_bounded_and_the_loss_counted() -> None:
    drain = Drain(
        {}, jiffies=Jiffies.__new__(Jiffies), outputs=Nowhere(),
        accountant=Accountant(datagram_idle_ticks=1, tcp_idle_ticks=1),
        evicted=lambda _: None, still_open=lambda _: set(), folding=Folding(Kernel()), taken=set[int],
        interval_seconds=1.0, hz=250,
    )  # fmt: skip
    for _ in range(WAITING + 7):
        drain.offer(EVENT)
    assert drain.inbox.qsize() == WAITING
    assert drain.unread()["events_unread"] == 7
