"""A small HTTP server in front of an API server: what `answer` does not answer itself, it forwards, streams too."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.api.requests import Requests

Answer = tuple[int, str, bytes]
"""Status, content type, body."""
_PASSED = ("Content-Type", "Accept", "Authorization")


def document(body: dict[str, Any], status: int = 200) -> Answer:
    return status, "application/json", json.dumps(body).encode()


class Front:
    """Use as a context manager. `answer` may be exchanged at any time; None: forward."""

    def __init__(self, behind: Requests, answer: Callable[[str], Answer | None]) -> None:
        self.answer = answer
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                said = front.answer(self.path)
                if said is None:
                    self._forward()
                    return
                status, kind, body = said
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def _forward(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name: self.headers[name] for name in _PASSED if name in self.headers} | behind.headers
                request = urllib.request.Request(
                    f"{behind.url}{self.path}", self.rfile.read(length) or None, headers, method=self.command
                )
                try:
                    answer = urllib.request.urlopen(request, context=behind.tls(), timeout=600)
                except urllib.error.HTTPError as exc:
                    answer = exc
                with answer:
                    self.send_response(answer.status)
                    self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    while chunk := answer.read1(65536):
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Front:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
