"""What judges our definitions on a current cluster: apiextensions-apiserver with an etcd of its own, on loopback.

It asks another API server who somebody is and what they may; here a stand-in answers "an administrator, everything".
It knows no namespaces: objects are taken in any.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from tests.api.control_plane import ROOT
from tests.api.requests import Requests, free_port

_PLUGINS = (
    "NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,ValidatingAdmissionPolicy,"
    "MutatingAdmissionPolicy"
)


def programs() -> Path:
    """A folder with the server, its etcd and api-judge; built where there is none yet."""
    script = str(ROOT / "scripts" / "crd-server.sh")
    done = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])


def judged(*questions: dict[str, Any]) -> list[dict[str, Any]]:
    """api-judge's answers (scripts/api-judge/main.go)."""
    text = "".join(f"{json.dumps(question)}\n" for question in questions)
    done = subprocess.run([str(programs() / "api-judge")], input=text, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


class _Allow(BaseHTTPRequestHandler):
    """TokenReview and SubjectAccessReview: yes to both."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = {"username": "admin", "groups": ["system:masters"]}
        body = json.dumps({**review, "status": {"allowed": True, "authenticated": True, "user": user}}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


class CrdServer(Requests):
    """Use as a context manager."""

    headers: ClassVar[dict[str, str]] = {"Authorization": "Bearer any"}

    def __init__(self, folder: Path) -> None:
        self.folder, self._programs, self._port = folder, programs(), free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._allow = ThreadingHTTPServer(("127.0.0.1", 0), _Allow)

    def __enter__(self) -> CrdServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._allow.serve_forever, daemon=True).start()
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._spawn(
            "etcd", "--name=one", f"--data-dir={self.folder}/etcd", "--log-level=error",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}",
        )  # fmt: skip
        core = self.kubeconfig_to("core", f"http://127.0.0.1:{self._allow.server_port}")
        self._spawn(
            "apiextensions-apiserver", f"--etcd-servers={client}", f"--secure-port={self._port}",
            "--bind-address=127.0.0.1", f"--cert-dir={self.folder}/certs", f"--kubeconfig={core}",
            f"--authentication-kubeconfig={core}", f"--authorization-kubeconfig={core}",
            "--authentication-skip-lookup", f"--disable-admission-plugins={_PLUGINS}",
        )  # fmt: skip
        self._until_ready(time.monotonic() + 120)
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait(30)
        self._allow.shutdown()
        self._allow.server_close()

    def tls(self) -> ssl.SSLContext:
        """Its certificate is of its own making."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def kubeconfig(self) -> Path:
        return self.kubeconfig_to("kubeconfig", self.url)

    def kubeconfig_to(self, name: str, url: str) -> Path:
        cluster = {"server": url} | ({"insecure-skip-tls-verify": True} if url.startswith("https") else {})
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": "any"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }  # fmt: skip
        path = self.folder / name
        path.write_text(json.dumps(document))
        return path

    def _until_ready(self, deadline: float) -> None:
        """/readyz waits for kinds of kube-apiserver's, which nobody has here."""
        while time.monotonic() < deadline and self._processes[-1].poll() is None:
            with contextlib.suppress(OSError):
                self.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
                return
            time.sleep(0.2)
        log = (self.folder / "apiextensions-apiserver.log").read_text()
        raise RuntimeError(f"apiextensions-apiserver is not ready:\n{log[-2000:]}")

    def _spawn(self, name: str, *arguments: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            command = [str(self._programs / name), *arguments]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))
