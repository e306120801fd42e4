"""DNS servers that were asked and are silent: questions leave, and nothing comes back.

What was asked is not known: programs report answers. A server that answers some questions, and loses others, is not
told about; a task's own timeout and retry hide those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.model.cluster import Address
from agent.model.flow import NO_ANSWER, FailedLookup, Flow, Tuple
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction

PATIENCE_SECONDS = 4.0
"""Stub resolvers ask again, or another server, after 5 s (resolv.conf(5), `timeout`)."""
MOST = 4096
_PORT = 53


@dataclass(slots=True)
class Unanswered:
    """By endpoint and server the first question without an answer. Bounded: what finds no room is not waited for."""

    _asked: dict[tuple[str, Tuple], tuple[float, Flow]] = field(default_factory=dict)

    def look(self, flows: Iterable[Flow], now: float, is_resolver: Callable[[Address], bool]) -> list[FailedLookup]:
        """Takes in what one drain found. `now`: seconds that never go back. The silent servers, each once."""
        for flow in flows:
            if _is_lookup(flow) and is_resolver(flow.tuple.peer):
                self._take(flow, now)
        overdue = [key for key, (since, _) in self._asked.items() if now - since >= PATIENCE_SECONDS]
        return [_failed(self._asked.pop(key)[1]) for key in overdue]

    def _take(self, flow: Flow, now: float) -> None:
        key = (flow.endpoint.uid, flow.tuple)
        if flow.counts.received_packets:
            self._asked.pop(key, None)
        elif flow.counts.sent_packets and (key in self._asked or len(self._asked) < MOST):
            since, _ = self._asked.get(key, (now, flow))
            self._asked[key] = (since, flow)


def _is_lookup(flow: Flow) -> bool:
    at = flow.tuple
    return at.protocol == IpProtocol.UDP and at.service_port == _PORT and at.direction is Direction.EGRESS


def _failed(flow: Flow) -> FailedLookup:
    return FailedLookup(
        time=flow.time, endpoint=flow.endpoint, server=flow.tuple, peer=flow.peer, name="", record="", rcode=NO_ANSWER
    )
