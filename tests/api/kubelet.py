"""What plays a kubelet: HTTPS on loopback, its exec endpoint by websocket, the command as a process of this machine.

Source: kubelet's /exec/NAMESPACE/POD/CONTAINER (k8s.io/kubelet, pkg/cri/streaming); subprotocol v4.channel.k8s.io:
each frame begins with its channel, 1 for output, 2 for errors, 3 for the Status at the end. RFC 6455 for the frames.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import ssl
import struct
import subprocess
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PROTOCOL = "v4.channel.k8s.io"
_BINARY, _CLOSE = 0x82, 0x88

Command = Callable[[str, list[str]], subprocess.Popen[bytes] | None]
"""Starts a command in a pod; None: the kubelet takes the request and never answers."""


class Kubelet:
    """Use as a context manager. One for all nodes: API servers ask it by the port that a Node object names."""

    def __init__(self, pki: Path, command: Command) -> None:
        kubelet = self
        self.command, self.asked, self._hang = command, [], threading.Event()  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urllib.parse.urlsplit(self.path)
                _, verb, _, pod, container = (url.path.split("/") + [""] * 5)[:5]
                words = urllib.parse.parse_qs(url.query).get("command", [])
                kubelet.asked.append((verb, pod, container, words))
                process = kubelet.command(pod, words)
                if process is None:
                    kubelet._hang.wait(60)
                    return
                self._upgrade()
                with contextlib.suppress(OSError), process:
                    self._stream(process)
                process.kill()
                process.wait()
                self.close_connection = True

            do_POST = do_GET

            def _upgrade(self) -> None:
                key = self.headers["Sec-WebSocket-Key"] + _MAGIC
                assert self.headers["Sec-WebSocket-Protocol"] == _PROTOCOL
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                self.send_header(
                    "Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
                )
                self.send_header("Sec-WebSocket-Protocol", _PROTOCOL)
                self.end_headers()

            def _stream(self, process: subprocess.Popen[bytes]) -> None:
                assert process.stdout is not None
                assert process.stderr is not None
                while chunk := process.stdout.read1(1000):  # type: ignore[attr-defined]
                    self._frame(_BINARY, b"\x01" + chunk)
                self._frame(_BINARY, b"\x02" + process.stderr.read())
                code = process.wait()
                status: dict[str, Any] = {"metadata": {}, "status": "Success"}
                if code:
                    status = {
                        "status": "Failure", "reason": "NonZeroExitCode",
                        "message": f"command terminated with non-zero exit code: {code}",
                    }  # fmt: skip
                self._frame(_BINARY, b"\x03" + json.dumps(status).encode())
                self._frame(_CLOSE, struct.pack(">H", 1000))

            def _frame(self, kind: int, data: bytes) -> None:
                size = struct.pack(">B", len(data)) if len(data) < 126 else struct.pack(">BH", 126, len(data))
                self.wfile.write(bytes([kind]) + size + data)
                self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "server.crt", pki / "server.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_port)

    def __enter__(self) -> Kubelet:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hang.set()
        self._server.shutdown()
        self._server.server_close()
