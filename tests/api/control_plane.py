"""A real etcd and kube-apiserver on loopback: TLS, RBAC, service account tokens. Nothing here is faked.

Binaries: KUBEBUILDER_ASSETS (the convention of envtest), else the cache that scripts/kube-apiserver.sh fills.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.api.requests import Requests, free_port

ROOT = Path(__file__).parents[2]


def binaries() -> Path:
    """A folder with etcd and kube-apiserver; built or fetched where there is none yet."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        return Path(assets)
    done = subprocess.run(
        [str(ROOT / "scripts" / "kube-apiserver.sh")], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.strip().splitlines()[-1])


class ControlPlane(Requests):
    """Use as a context manager. Both processes can be killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._binaries = folder, binaries()
        self._etcd_port, self._peer_port, self._port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ControlPlane:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._certificates()
        self.start_etcd()
        self.start_apiserver()
        return self

    def __exit__(self, *exc: object) -> None:
        for name in ("kube-apiserver", "etcd"):
            self.kill(name)

    def start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self._spawn(
            "etcd", "--name", "one", "--data-dir", str(self.folder / "etcd"), "--log-level", "error",
            "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}",
        )  # fmt: skip

    def start_apiserver(self, wait_seconds: float = 120) -> None:
        pki, etcd = self.folder / "pki", f"http://127.0.0.1:{self._etcd_port}"
        self._spawn(
            "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={self._port}",
            "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            f"--client-ca-file={pki}/ca.crt", f"--tls-cert-file={pki}/server.crt",
            f"--kubelet-client-certificate={pki}/admin.crt", f"--kubelet-client-key={pki}/admin.key",
            f"--tls-private-key-file={pki}/server.key", f"--cert-dir={self.folder}/certs",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key", "--profiling=false",
            f"--audit-policy-file={self._audit_policy()}", f"--audit-log-path={self.folder}/audit.log",
        )  # fmt: skip
        deadline = time.monotonic() + wait_seconds
        while time.monotonic() < deadline:
            if self._processes["kube-apiserver"].poll() is not None:
                break
            with contextlib.suppress(OSError):
                if self.request("GET", "/readyz") == "ok" and self.request("GET", "/api/v1/namespaces/default"):
                    return
            time.sleep(0.2)
        raise RuntimeError(
            f"kube-apiserver is not ready:\n{(self.folder / 'kube-apiserver.log').read_text()[-2000:]}"
        )

    def used(self, *, refused: bool = False) -> set[tuple[str, str, str]]:
        """(group, resource, verb) of every request of dagwall's service account; those without the right apart.

        A watch that waits for its first event has only been received yet: what is not refused counts as allowed.
        """
        requests: dict[str, tuple[str, str, str]] = {}
        forbidden: set[str] = set()
        log = self.folder / "audit.log"  # made with its first line
        for line in log.read_text().splitlines() if log.exists() else ():
            entry = json.loads(line)
            reference = entry.get("objectRef")
            if reference:
                subresource = f"/{reference['subresource']}" if reference.get("subresource") else ""
                resource = f"{reference['resource']}{subresource}"
                requests[entry["auditID"]] = (reference.get("apiGroup", ""), resource, entry["verb"])
            if entry.get("responseStatus", {}).get("code") in (401, 403):
                forbidden.add(entry["auditID"])
        return {request for number, request in requests.items() if (number in forbidden) == refused}

    def token_kubeconfig(self, namespace: str, account: str) -> Path:
        """A service account's own, by the TokenRequest API."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        document = json.loads(self.kubeconfig().read_text())
        document["users"][0]["user"] = {"token": self.request("POST", path, body)["status"]["token"]}
        file = self.folder / f"kubeconfig-{namespace}-{account}"
        file.write_text(json.dumps(document))
        return file

    def compact(self) -> None:
        """Forget history in etcd: watches that begin before now get 410 Gone."""
        url = f"http://127.0.0.1:{self._etcd_port}/v3/kv"

        def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
            request = urllib.request.Request(f"{url}/{path}", json.dumps(body).encode(), method="POST")
            with urllib.request.urlopen(request, timeout=10) as answer:
                return dict(json.loads(answer.read()))

        revision = post("range", {"key": "AA=="})["header"]["revision"]
        post("compaction", {"revision": revision, "physical": True})

    def send(self, name: str, number: int) -> None:
        """A signal that does not end it."""
        self._processes[name].send_signal(number)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait(30)

    def tls(self) -> ssl.SSLContext:
        pki = self.folder / "pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        return context

    def kubeconfig(self) -> Path:
        """Cluster admin's, by client certificate."""
        pki = self.folder / "pki"
        texts = {
            name: base64.b64encode((pki / name).read_bytes()).decode()
            for name in ("ca.crt", "admin.crt", "admin.key")
        }
        path = self.folder / "kubeconfig"
        cluster = {"server": self.url, "certificate-authority-data": texts["ca.crt"]}
        user = {"client-certificate-data": texts["admin.crt"], "client-key-data": texts["admin.key"]}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": user}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }  # fmt: skip
        path.write_text(json.dumps(document))
        return path

    def _spawn(self, name: str, *arguments: str) -> None:
        program = self._binaries / name
        command = str(program) if program.exists() else shutil.which(name) or name
        with open(self.folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen([command, *arguments], stdout=log, stderr=log)

    def _audit_policy(self) -> Path:
        """What the agent asks for, and nothing else."""
        rules = [{"level": "Metadata", "users": ["system:serviceaccount:dagwall-system:dagwall-agent"]}]
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [*rules, {"level": "None"}]}
        file = self.folder / "audit-policy.json"
        file.write_text(json.dumps(policy))
        return file

    def _certificates(self) -> None:
        """A CA, the server's certificate, an admin's, and the key that signs service account tokens."""
        pki = self.folder / "pki"
        pki.mkdir(exist_ok=True)
        if (pki / "ca.crt").exists():
            return
        _openssl("genrsa", "-out", f"{pki}/sa.key", "2048")
        _openssl("rsa", "-in", f"{pki}/sa.key", "-pubout", "-out", f"{pki}/sa.pub")
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{pki}/ca.key")
        _openssl(
            "req", "-x509", "-new", "-key", f"{pki}/ca.key", "-subj", "/CN=ca", "-days", "30", "-out", f"{pki}/ca.crt"
        )
        self._certificate("server", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self._certificate("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth")

    def _certificate(self, name: str, subject: str, extension: str) -> None:
        pki = self.folder / "pki"
        (pki / "extension").write_text(extension + "\n")
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{pki}/{name}.key")
        _openssl("req", "-new", "-key", f"{pki}/{name}.key", "-subj", subject, "-out", f"{pki}/{name}.csr")
        _openssl(
            "x509", "-req", "-in", f"{pki}/{name}.csr", "-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key",
            "-CAcreateserial", "-days", "30", "-extfile", f"{pki}/extension", "-out", f"{pki}/{name}.crt",
        )  # fmt: skip


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    with ControlPlane(folder) as running:
        yield running
