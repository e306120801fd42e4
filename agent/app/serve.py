"""The outputs of one agent, in threads of their own. A new one is a row in `_made`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry

from agent.app.sources import source_kind
from agent.config import Config
from agent.outputs.api import ApiServer
from agent.outputs.flowlog import FlowLog, RotatingFile
from agent.outputs.http import HttpServer, app
from agent.outputs.latest import Latest
from agent.outputs.metrics import Metrics
from agent.outputs.output import Output
from agent.outputs.questions import Questions
from agent.outputs.recent import Recent


class Serving:
    """Makes all outputs at once, so that a bad address ends the start; they work from `start` to `stop`.

    Raises DagwallError where one cannot be made; those made before it are stopped.
    """

    def __init__(self, config: Config) -> None:
        self.latest = Latest(self._lost)
        self.outputs: tuple[Output, ...] = (self.latest,)
        try:
            for output in _made(config, self.latest):
                self.outputs = (*self.outputs, output)
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        for output in self.outputs:
            output.start()

    def stop(self) -> None:
        """After the agent's end, so that its last flows are written."""
        for output in self.outputs:
            output.stop()

    def _lost(self) -> Mapping[str, int]:
        return {reason: count for output in self.outputs for reason, count in output.losses().items()}


def _made(config: Config, latest: Latest) -> Iterator[Output]:
    """The local API comes first: an agent that lives here is named before its addresses are."""
    recent, registry = Recent(), CollectorRegistry()
    yield recent
    yield ApiServer(config.socket, Questions(latest.view, latest.cluster, recent))
    yield Metrics(registry, latest.view, series=config.metric_series)
    for what, address, shown in (("metrics", config.metrics, registry), ("probes", config.probes, None)):
        if address:
            application = app(shown, dead=latest.dead, unready=latest.unready, lacking=latest.lacking)
            yield HttpServer(address, application, what)
    if config.flow_log:
        yield FlowLog(RotatingFile(config.flow_log), config.node)
    yield from source_kind(config).outputs(config)
