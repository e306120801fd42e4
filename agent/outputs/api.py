"""The local API: a unix socket for root, one JSON line in, JSON lines out. Nothing in it changes anything."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import socket
import sys
import threading
from pathlib import Path
from socketserver import StreamRequestHandler, UnixStreamServer
from typing import Any

from agent.errors import DagwallError
from agent.log import event
from agent.outputs.bounded import BoundedThreads, Room
from agent.outputs.output import Output
from agent.outputs.questions import VERSION, BadRequest, Questions, Request, UnknownName

MAX_REQUEST_BYTES = 65536
REQUEST_SECONDS = 10.0
CONNECTIONS = 64
FILES_SHARE = 4
"""Connections take so small a part of the descriptors that the agent may have: the rest is for its work."""


class ApiServer(Output):
    """Binds at once, serves from `start` to `stop`. A socket that nobody answers on is replaced."""

    def __init__(self, path: Path, questions: Questions) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if answers(path):
                raise DagwallError(f"{path}: another agent answers on this socket")
            self._server = _Server(path, questions)
        except OSError as exc:
            raise DagwallError(f"listen on {path}: {exc.strerror or exc}") from exc
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="api", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        with contextlib.suppress(OSError):
            self._path.unlink()


def answers(path: Path) -> bool:
    """Whether somebody serves on this socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class _Server(BoundedThreads, UnixStreamServer):
    def __init__(self, path: Path, questions: Questions) -> None:
        self.questions = questions
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.room = Room(max(1, min(CONNECTIONS, files // FILES_SHARE // 2)), REQUEST_SECONDS)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        super().__init__(str(fresh), _Connection, bind_and_activate=False)
        self.server_bind()
        os.chmod(fresh, 0o600)  # before anyone can connect: it does not listen yet
        os.replace(fresh, path)
        self.server_activate()

    def handle_error(self, *_: Any) -> None:
        """Called inside of `except`: a defect in an answer must not end the agent, nor pass unseen."""
        event("api.failed", level=logging.ERROR, exc=sys.exc_info()[1])


class _Connection(StreamRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # who asked has gone
            try:
                for answer in self.server.questions.answers(self._request()):
                    self._send(answer)
            except DagwallError as exc:
                self._send({"error": str(exc)} | ({"unknown": True} if isinstance(exc, UnknownName) else {}))
            except OSError:
                raise
            except Exception as exc:  # noqa: BLE001  a defect is one line in the log, and an answer
                event("api.failed", level=logging.ERROR, exc=exc)
                self._send({"error": "failed: see the agent's log"})

    def _request(self) -> Request:
        line = self.rfile.readline(MAX_REQUEST_BYTES + 1)
        self.server.room.asked(self.connection)
        if len(line) > MAX_REQUEST_BYTES:
            raise BadRequest(f"a request has at most {MAX_REQUEST_BYTES} bytes")
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise BadRequest("a request is one line of JSON") from exc
        if not isinstance(request, dict):
            raise BadRequest("a request is a JSON object")
        return request

    def _send(self, answer: dict[str, Any]) -> None:
        line = json.dumps({"version": VERSION, **answer}, separators=(",", ":"))
        self.wfile.write(line.encode("utf-8") + b"\n")
