"""The outputs of one agent, in threads of their own. A new one is a row in `_made`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from agent.app.sources import source_kind
from agent.config import Config
from agent.errors import DagwallError
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
    yield from _hubble(config)
    if config.flow_log:
        yield FlowLog(RotatingFile(config.flow_log), config.node)
    if config.audit_log:
        yield _audit(config, config.audit_log, latest)
    yield from source_kind(config).outputs(config)


def _hubble(config: Config) -> Iterator[Output]:
    socket = config.socket.with_name("hubble.sock") if config.hubble_socket is None else config.hubble_socket
    if not socket and not config.hubble_listen:
        return
    from agent.outputs.observer.certificates import TlsFiles  # noqa: PLC0415  20 MB that not all agents need
    from agent.outputs.observer.server import HubbleServer  # noqa: PLC0415  the same

    files = (config.hubble_certificate, config.hubble_key, config.hubble_client_ca)
    certificate, key, client_ca = files
    tls = TlsFiles(certificate, key, client_ca) if certificate and key and client_ca else None
    if any(files) and not tls:
        raise DagwallError("--hubble-tls-cert, --hubble-tls-key and --hubble-tls-client-ca belong together")
    if config.hubble_listen and not tls:
        raise DagwallError("--hubble-listen: needs --hubble-tls-cert, --hubble-tls-key and --hubble-tls-client-ca")
    yield HubbleServer(
        config.node,
        socket=Path(socket) if socket else None,
        listen=config.hubble_listen,
        tls=tls,
        flows=config.hubble_flows,
    )


def _audit(config: Config, path: Path, latest: Latest) -> Output:
    from agent.outputs.audit.journal import Journal  # noqa: PLC0415  9 MB of cryptography that not all agents need
    from agent.outputs.audit.keys import signer  # noqa: PLC0415  the same
    from agent.outputs.audit.log import AuditLog  # noqa: PLC0415  the same

    key = signer(config.audit_key, config.state / "audit-key.pem")
    return AuditLog(Journal(path, key, keep=config.audit_files), config.node, latest.view)
