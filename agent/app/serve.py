"""Everything that shows what the agent does: metrics, local API, flow log, Kubernetes, in threads of their own."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from agent.app.agent import Agent
from agent.app.kube import KubeReports
from agent.app.report import Reporter
from agent.config import Config
from agent.model.flow import Denial, Flow
from agent.model.report import EndpointRow
from agent.node.directory import log_contradiction
from agent.outputs.api import ApiServer
from agent.outputs.flowlog import FlowLog, RotatingFile
from agent.outputs.http import HttpServer, app
from agent.outputs.metrics import Metrics
from agent.outputs.questions import Questions
from agent.outputs.recent import Recent


class Serving:
    """Binds its sockets at once, so that a bad address ends the start; answers from `start` to `stop`.

    It is the `Outputs` of agent.node.flow_drain, and its `publish` is what agent.app.agent.build wants.
    Raises DagwallError where a socket cannot be bound.
    """

    def __init__(self, config: Config) -> None:
        self.recent = Recent()
        self.reporter = Reporter(config, self._lost)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, self.reporter.view, series=config.metric_series)
        self.kube = _kube(config)
        self.flow_log = FlowLog(RotatingFile(config.flow_log), config.node) if config.flow_log else None
        self.http: list[HttpServer] = []
        questions = Questions(self.reporter.view, self.reporter.cluster, self.recent)
        self.api = ApiServer(config.socket, questions)
        try:  # after the socket: an agent that lives here is named before its addresses
            for what, address, registry in (
                ("metrics", config.metrics, self.registry), ("probes", config.probes, None),
            ):  # fmt: skip
                said = self.reporter
                application = app(registry, dead=said.dead, unready=said.unready, lacking=said.lacking)
                self.http += [HttpServer(address, application, what)] if address else []
        except BaseException:
            self.api.stop()
            for server in self.http:
                server.stop()
            raise

    def start(self) -> None:
        self.api.start()
        for server in self.http:
            server.start()
        if self.flow_log is not None:
            self.flow_log.start()
        if self.kube is not None:
            self.kube.start()

    def stop(self) -> None:
        """After the agent's end, so that its last flows are written."""
        self.recent.close()
        self.api.stop()
        for server in self.http:
            server.stop()
        if self.flow_log is not None:
            self.flow_log.stop()
        if self.kube is not None:
            self.kube.stop()

    def publish(self, agent: Agent) -> None:
        self.reporter.publish(agent)
        if self.kube is not None:
            self.kube.publish(agent)

    def flows(self, flows: list[Flow]) -> None:
        self.metrics.flows(flows)
        self.recent.flows(flows)
        if self.flow_log is not None:
            self.flow_log.flows(flows)

    def denials(self, denials: list[Denial]) -> None:
        self.recent.denials(denials)
        if self.flow_log is not None:
            self.flow_log.denials(denials)
        if self.kube is not None:
            self.kube.denials(denials)

    def policy_latency(self, seconds: float) -> None:
        self.metrics.observe_policy_latency(seconds)

    def contradiction(self, row: EndpointRow) -> None:
        log_contradiction(row)
        if self.kube is not None:
            self.kube.contradiction(row)

    def pending(self, seconds: float) -> None:
        self.metrics.observe_pending(seconds)

    def _lost(self) -> Mapping[str, int]:
        written = dict(self.flow_log.losses) if self.flow_log is not None else {}
        unreported = self.kube.losses() if self.kube is not None else {}
        return {"followers": self.recent.lost, **written, **unreported}


def _kube(config: Config) -> KubeReports | None:
    """An agent on files has no server to tell. Raises ApiError where there are no credentials."""
    if config.files is not None:
        return None
    from agent.sources.kube_api import KubeApi  # noqa: PLC0415  17 MB that an agent on files does not need

    return KubeReports(KubeApi.connect(str(config.kubeconfig or "")), config.node)
