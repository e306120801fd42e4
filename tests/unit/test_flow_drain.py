"""The draining thread's inbox is bounded, and what finds no room in it is counted."""

from __future__ import annotations

from agent.flows.account import Accountant
from agent.node.flow_drain import WAITING, FlowDrain
from agent.node.folding import Folding
from tests.unit.test_flows_join import EVENT
from tests.unit.test_node_folding import Kernel


class Still:
    def now(self) -> int:
        return 0


def test_a_flood_of_events_is_bounded_and_the_loss_counted() -> None:
    drain = FlowDrain(
        {}, jiffies=Still(), receivers=(),
        accountant=Accountant(datagram_idle_ticks=1, tcp_idle_ticks=1),
        evicted=lambda _: None, still_open=lambda _: set(), folding=Folding(Kernel()), taken=set[int],
        interval_seconds=1.0, hz=250,
    )  # fmt: skip
    for _ in range(WAITING + 7):
        drain.offer(EVENT)
    assert drain.inbox.qsize() == WAITING
    assert drain.lost()["events_unread"] == 7
