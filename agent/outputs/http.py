"""The HTTP side: /metrics, /livez and /readyz (S3: bound by choice).

The kubelet's probes have a listener of their own on loopback: one that others reach can be kept busy by them.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from socketserver import TCPServer
from typing import IO, TYPE_CHECKING, Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from agent.errors import DagwallError
from agent.log import event
from agent.outputs.bounded import BoundedThreads, Room
from agent.outputs.output import Output
from agent.text import printable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REQUESTS = 16
"""At the same time; of more, those that came first are closed."""
REQUEST_SECONDS = 10.0
"""For question and answer together."""

Problems = Callable[[], Sequence[str]]
"""What is wrong, one sentence each; nothing: all is well."""


def app(
    registry: CollectorRegistry | None, *, dead: Problems, unready: Problems, lacking: Problems
) -> WSGIApplication:
    """GET /livez, /readyz, and /metrics with a registry; 503 with the problems as text.

    lacking: what is said beside readiness without being against it.
    """
    metrics: WSGIApplication | None = make_wsgi_app(registry) if registry is not None else None
    known = "/livez, /readyz" if metrics is None else "/metrics, /livez, /readyz"

    def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """The boundary of a request's thread: a defect is a line in the log, not a trace beside it."""
        try:
            return answer(environ, start)
        except Exception as exc:  # noqa: BLE001  the server would swallow it
            event("http.failed", level=logging.ERROR, exc=exc, path=environ.get("PATH_INFO", ""))
            return _text(start, "500 Internal Server Error", ["failed: see the agent's log"])

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics" and metrics is not None:
            return metrics(environ, start)
        if path in ("/livez", "/readyz"):
            problems, notes = (dead(), ()) if path == "/livez" else (unready(), lacking())
            return _text(start, "503 Service Unavailable" if problems else "200 OK", [*(problems or ["ok"]), *notes])
        return _text(start, "404 Not Found", [known])

    return guarded


def _text(start: StartResponse, status: str, lines: Iterable[str]) -> Iterable[bytes]:
    body = "".join(f"{printable(line)}\n" for line in lines).encode("utf-8", "replace")
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


class _Answer(ServerHandler):
    server_software = "dagwall"  # nobody's business is which Python this is
    request_handler: WSGIRequestHandler

    def log_exception(self, exc_info: Any) -> None:
        """A client that went away, or was too slow, is no event."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS
    server: _Server

    def handle(self) -> None:
        """One request, as the base class, which has Python's version in each answer."""
        try:
            self.raw_requestline = self.rfile.readline(65537)
            if len(self.raw_requestline) > 65536 or not self.parse_request():
                return
            self.server.room.asked(self.connection)
            streams = cast(IO[bytes], self.rfile), cast(IO[bytes], self.wfile)
            answer = _Answer(*streams, self.get_stderr(), self.get_environ(), multithread=True)
            answer.request_handler = self
            answer.run(self.server.answer)
        except OSError:
            return  # who asked has gone, or was too slow

    def version_string(self) -> str:
        return "dagwall"

    def log_message(self, *_: object) -> None:
        """Nothing per request."""


class _Server(BoundedThreads, WSGIServer):
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, application: WSGIApplication) -> None:
        self.address_family, self.answer = family, application
        self.room = Room(REQUESTS, REQUEST_SECONDS, whole=True)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """As the base class, without its DNS query for this host's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


def split_address(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`, `:port`. Raises ValueError that says what is allowed."""
    host, separator, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else -1
    bare = host.removeprefix("[").removesuffix("]")
    if not separator or not 0 <= number <= 65535 or (":" in bare and bare == host):
        raise ValueError(f"must be HOST:PORT such as 127.0.0.1:9990 or [::1]:9990, not {text!r}")
    return bare, number


class HttpServer(Output):
    """Binds at once, serves from `start` to `stop`. Raises DagwallError where the address is taken."""

    def __init__(self, address: str, application: WSGIApplication, what: str = "metrics") -> None:
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._server = _Server((host, port), family, application)
        except OSError as exc:
            raise DagwallError(f"serve {what} on {address}: {exc.strerror or exc}") from exc
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)

    @property
    def room(self) -> Room:
        return self._server.room

    @property
    def port(self) -> int:
        """The one that was bound, where 0 was asked for."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        with contextlib.suppress(OSError):
            self._server.server_close()
