"""Hubble's services on a unix socket for root, and on TCP for who has a certificate; the last flows for both.

A stream has a place and a thread of its own, so that a slow client holds up only itself; there are so many places.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from agent.errors import DagwallError
from agent.log import event
from agent.model.flow import Denial, FailedLookup, Flow, Outcome
from agent.model.node_state import NodeState
from agent.outputs.api import answers
from agent.outputs.filtering import BadFilter
from agent.outputs.http import split_address
from agent.outputs.observer.certificates import Certificates, TlsFiles
from agent.outputs.observer.messages import BadMessage, unpack
from agent.outputs.observer.peers import Serving
from agent.outputs.observer.places import Gone, Places
from agent.outputs.observer.ring import Ring
from agent.outputs.observer.service import Alive, Service
from agent.outputs.output import Output

STREAMS, QUESTIONS = 32, 8
"""At the same time; of more streams the one that has stalled the longest ends, of more questions the newest fails."""
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two agents on one port: the second does not start
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_concurrent_streams", STREAMS + QUESTIONS),
    ("grpc.max_allowed_incoming_connections", 128),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),  # a client that went without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),  # relay asks more often than gRPC's own limit
)
Context = grpc.ServicerContext
Answers = Callable[[bytes, Alive], Iterator[bytes]]


class HubbleServer(Output):
    """Binds at once, serves from `start` to `stop`. Raises DagwallError where it cannot."""

    def __init__(
        self,
        node: str,
        *,
        socket: Path | None,
        listen: str = "",
        tls: TlsFiles | None = None,
        flows: int,
        streams: int = STREAMS,
    ) -> None:
        self._ring, self._socket = Ring(flows), socket
        self._places = Places(streams)
        host, port = split_address(listen) if listen else ("", 0)
        self._threads = ThreadPoolExecutor(streams + QUESTIONS, thread_name_prefix="hubble")
        self._server = grpc.server(self._threads, options=_OPTIONS, maximum_concurrent_rpcs=streams + QUESTIONS)
        try:
            if socket is not None:
                _listen_on(self._server, socket)
            if listen:
                port = self._listen_at(listen, host, port, tls)
        except BaseException:
            self._server.stop(None)
            raise
        self.port = port
        self._service = Service(self._ring, Serving(node, str(socket or ""), host, port))
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._service.close()
        self._server.stop(1).wait(5)
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.unlink()

    def flows(self, flows: list[Flow]) -> None:
        self._ring.add(flows)

    def denials(self, denials: list[Denial]) -> None:
        self._ring.add(denials)

    def lookups(self, lookups: list[FailedLookup]) -> None:
        self._ring.add(lookups)

    def outcomes(self, outcomes: list[Outcome]) -> None:
        self._ring.add([each for each in outcomes if each.failed])

    def report(self, state: NodeState) -> None:
        self._service.report(state)

    def losses(self) -> Mapping[str, int]:
        return dict(self._service.lost)

    def _listen_at(self, listen: str, host: str, port: int, tls: TlsFiles | None) -> int:
        if tls is None:
            raise DagwallError(f"serve hubble on {listen}: needs a certificate, its key and the clients' CA")
        credentials = Certificates(tls).credentials()
        try:
            return self._server.add_secure_port(
                f"[{host or '::'}]:{port}" if ":" in host or not host else f"{host}:{port}", credentials
            )
        except RuntimeError as exc:
            raise DagwallError(f"serve hubble on {listen}: cannot be bound") from exc

    def _handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        service = self._service
        yield grpc.method_handlers_generic_handler("observer.Observer", {
            "GetFlows": self._stream(service.get_flows),
            "GetAgentEvents": self._stream(_if_followed("observer.GetAgentEventsRequest", service)),
            "GetDebugEvents": self._stream(_if_followed("observer.GetDebugEventsRequest", service)),
            "ServerStatus": self._question(lambda _: service.server_status()),
            "GetNodes": self._question(lambda _: service.get_nodes()),
            "GetNamespaces": self._question(lambda _: service.get_namespaces()),
        })  # fmt: skip
        yield grpc.method_handlers_generic_handler(
            "peer.Peer", {"Notify": self._stream(lambda _, alive: service.notify(alive))}
        )
        yield grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": self._question(service.health)})

    def _question(self, answer: Callable[[bytes], bytes | None]) -> grpc.RpcMethodHandler[bytes, bytes]:
        def respond(request: bytes, context: Context) -> bytes:
            found, why = None, (grpc.StatusCode.NOT_FOUND, "no such service")
            try:
                found = answer(request)
            except Exception as exc:  # noqa: BLE001  a defect is one line in the log, and an answer
                why = _refusal(exc)
            if found is None:
                context.abort(*why)
            return found

        return grpc.unary_unary_rpc_method_handler(respond)

    def _stream(self, answer: Answers) -> grpc.RpcMethodHandler[bytes, bytes]:
        def respond(request: bytes, context: Context) -> Iterator[bytes]:
            place = self._places.enter(context.cancel)
            if place is None:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._places.limit} streams are served at once")
            context.add_callback(self._ring.wake)
            why = None
            try:
                for message in answer(request, context.is_active):
                    self._places.sends(place)
                    yield message
                    self._places.sent(place)
            except Gone:
                return
            except Exception as exc:  # noqa: BLE001  as above
                why = _refusal(exc)
            finally:
                self._places.leave(place)
            if why is not None:
                context.abort(*why)

        return grpc.unary_stream_rpc_method_handler(respond)


def _refusal(exc: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(exc, BadFilter | BadMessage):
        return grpc.StatusCode.INVALID_ARGUMENT, str(exc)
    event("hubble.failed", level=logging.ERROR, exc=exc)
    return grpc.StatusCode.INTERNAL, "failed: see the agent's log"


def _if_followed(name: str, service: Service) -> Answers:
    return lambda request, alive: service.no_events(alive) if unpack(name, request).get("follow") else iter(())


def _listen_on(server: grpc.Server, path: Path) -> None:
    """Bound in a folder that nobody else may enter, then moved: never open to others, and never half there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if answers(path):
            raise DagwallError(f"{path}: another agent answers on this socket")
        private = Path(tempfile.mkdtemp(prefix=".hubble.", dir=path.parent))
        try:
            server.add_insecure_port(f"unix:{private / 's'}")
            os.chmod(private / "s", 0o600)
            os.replace(private / "s", path)
        finally:
            shutil.rmtree(private, ignore_errors=True)
    except (OSError, RuntimeError) as exc:
        raise DagwallError(f"listen on {path}: {getattr(exc, 'strerror', None) or exc}") from exc
