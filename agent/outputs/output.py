"""What an output is: metrics, flow log, local API, Kubernetes. A new one is a file here and a row in app/serve."""

from __future__ import annotations

from collections.abc import Mapping

from agent.model.flow import Denial, FailedLookup, Flow, Outcome
from agent.model.node_state import NodeState


class Output:
    """Inherit it: what an output does not take does nothing.

    `start` and `stop` come from the main thread, `report` from the writing thread, `flows`, `denials`, `lookups`
    and `outcomes` from the draining one, `losses` from any. None of them may wait: for a file, a server or a client
    there is a thread of the output's own.
    """

    def start(self) -> None:
        """Begin to answer, or to write. What can fail for the sake of a setting fails in the constructor."""

    def stop(self) -> None:
        """After the agent's end, so that its last flows are written. Also without a start."""

    def flows(self, flows: list[Flow]) -> None:
        """What one drain found, by time; also where that is nothing."""

    def denials(self, denials: list[Denial]) -> None:
        """Denials and audits, as they come."""

    def lookups(self, lookups: list[FailedLookup]) -> None:
        """Names that were asked for in vain, as they come."""

    def outcomes(self, outcomes: list[Outcome]) -> None:
        """What became of connections, as it comes; also where nothing failed."""

    def report(self, state: NodeState) -> None:
        """The node has changed, or was looked at again: at least every two seconds."""

    def losses(self) -> Mapping[str, int]:
        """What this output lost, by reason (R2)."""
        return {}
