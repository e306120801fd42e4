"""What people type, by kubectl itself: install, explain, get."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from agent.parse.definitions import definitions
from tests.api.control_plane import ROOT, ControlPlane
from tests.api.crd_server import CrdServer, judged
from tests.api.front import Answer, Front, document
from tests.api.policy_objects import DNS, typed
from tests.api.test_agent_on_api import policy
from tests.api.test_definitions import current, served  # noqa: F401
from tests.api.test_source import in_namespace, namespace

GROUPS = {
    "dagwall.io": "v1alpha1",
    "apiextensions.k8s.io": "v1",
}


class WithRoots:
    """The CRD server with the roots of discovery, which are kube-apiserver's."""

    def __init__(self, server: CrdServer, front: Front) -> None:
        self._server, self._front = server, front

    def kubeconfig(self) -> Path:
        return self._server.kubeconfig_to("with-roots", self._front.url)


def roots(path: str) -> Answer | None:
    if path.startswith("/api?") or path == "/api":
        return document({"kind": "APIVersions", "versions": ["v1"]})
    if path.startswith("/api/v1"):
        return document({"kind": "APIResourceList", "groupVersion": "v1", "resources": []})
    if path.startswith("/apis?") or path == "/apis":
        versions = {
            group: {"groupVersion": f"{group}/{version}", "version": version} for group, version in GROUPS.items()
        }
        groups = [{"name": group, "versions": [v], "preferredVersion": v} for group, v in versions.items()]
        return document({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    return None


Server = ControlPlane | WithRoots


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", f"--kubeconfig={server.kubeconfig()}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)


def kubectl(server: Server, *arguments: str) -> str:
    done = run(server, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_apply_installs(plane: ControlPlane) -> None:
    """As the server would take it; of a namespace that is not there yet a dry run knows nothing."""
    plane.apply(namespace("dagwall-system"))
    said = kubectl(plane, "apply", "--dry-run=server", "-f", "daemonset.yaml")
    assert "daemonset.apps/dagwall-agent created (server dry run)" in said
    assert said.count("customresourcedefinition.apiextensions.k8s.io/") == 3
    assert said.count("(server dry run)") == len(said.splitlines())


def test_taking_it_off_ends_well(plane: ControlPlane) -> None:
    """README's last step, when the agents have been deleted before, as its first step says. This server knows no
    admission policies, hence not deploy/startup-taint.yaml.
    """
    plane.apply(namespace("dagwall-system"))
    files = ("-f", "deploy/detach.yaml", "-f", "daemonset.yaml")
    assert run(plane, "delete", "--dry-run=server", *files).returncode == 1, "what is gone already was an error"
    kubectl(plane, "delete", "--dry-run=server", "--ignore-not-found", *files)


def test_a_current_server_takes_what_people_apply(current: CrdServer) -> None:  # noqa: F811
    """Server-side apply, the same again, and a client-side one after it."""
    with Front(current, roots) as front:
        server = WithRoots(current, front)
        obj = typed("TaskNetworkPolicy", {"egress": [{"to": [DNS]}]}, "by-kubectl")
        file = current.folder / "by-kubectl.json"
        file.write_text(json.dumps(obj))
        for arguments in (("--server-side", "--validate=false"),) * 2:
            assert "serverside-applied" in kubectl(server, "apply", "-f", str(file), *arguments)
        assert "configured" in kubectl(server, "apply", "--validate=false", "-f", str(file))
        header, row = kubectl(server, "get", "tnp", "-n", "crds", "by-kubectl").splitlines()
        assert (header.split()[1], row.split()[1]) == ("POSTURE", "enforce")


def test_fields_explain_themselves(current: CrdServer) -> None:  # noqa: F811
    """By OpenAPI v3, which servers have since 1.24. The document is the one that kube-apiserver makes."""
    documents = judged(*({"definition": definition} for definition in definitions()))
    schemas: dict[str, Any] = {}
    for document_of_one in documents:
        schemas |= document_of_one["components"]["schemas"]
    paths = {path: what for each in documents for path, what in each["paths"].items()}
    whole = {**documents[0], "paths": paths, "components": {"schemas": schemas}}
    ours = "apis/dagwall.io/v1alpha1"

    def answer(path: str) -> Answer | None:
        if path.startswith("/openapi/v3?") or path == "/openapi/v3":
            return document({"paths": {ours: {"serverRelativeURL": f"/openapi/v3/{ours}?hash=1"}}})
        return document(whole) if path.startswith(f"/openapi/v3/{ours}") else roots(path)

    with Front(current, answer) as front:
        server = WithRoots(current, front)
        said = kubectl(server, "explain", "tasknetworkpolicy.spec.egress")
        for part in ("to\t", "ports\t", "Any of these", "name\t"):
            assert part in said, said
        peer = kubectl(server, "explain", "tnp.spec.egress.to")
        for part in ("cidr", "entity", "service", "tasks"):
            assert part in peer, peer
        assert "claim" in kubectl(server, "explain", "tib.spec")


def test_columns_say_what_matters(plane: ControlPlane, served: ControlPlane) -> None:  # noqa: F811
    in_namespace(plane, "columns")
    plane.apply(policy("columns", 443))
    header, row = kubectl(plane, "get", "tnp", "-n", "columns").splitlines()
    assert header.split() == ["NAME", "POSTURE", "DAGS", "ACCEPTED", "PROGRAMMED", "ENDPOINTS", "AGE"]
    assert row.split()[:2] == ["etl", "enforce"], "what counts where nothing is written"
    assert "etl" in kubectl(plane, "get", "dagwall", "-n", "columns"), "by their category"
