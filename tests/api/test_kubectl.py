"""What people type, by kubectl itself: install, explain, get."""

from __future__ import annotations

import subprocess

from tests.api.control_plane import ROOT, ControlPlane
from tests.api.test_agent_on_api import policy
from tests.api.test_definitions import served  # noqa: F401
from tests.api.test_source import in_namespace, namespace
from tests.kernel.rig import eventually


def run(plane: ControlPlane, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", f"--kubeconfig={plane.kubeconfig()}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)


def kubectl(plane: ControlPlane, *arguments: str) -> str:
    done = run(plane, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_apply_installs(plane: ControlPlane) -> None:
    """As the server would take it; of a namespace that is not there yet a dry run knows nothing."""
    plane.apply(namespace("dagwall-system"))
    said = kubectl(plane, "apply", "--dry-run=server", "-f", "daemonset.yaml")
    assert "daemonset.apps/dagwall-agent created (server dry run)" in said
    assert said.count("customresourcedefinition.apiextensions.k8s.io/") == 3
    assert said.count("(server dry run)") == len(said.splitlines())


def test_fields_explain_themselves(plane: ControlPlane, served: ControlPlane) -> None:  # noqa: F811
    path = "tasknetworkpolicy.spec.egress"
    published = lambda: "FIELDS" in run(plane, "explain", path).stdout  # noqa: E731
    assert eventually(published, 60), "the server publishes a new kind's schema some seconds later"
    said = kubectl(plane, "explain", path)
    for part in ("to\t", "ports\t", "Any of these", "name\t"):
        assert part in said, said
    peer = kubectl(plane, "explain", "tnp.spec.egress.to")
    for part in ("cidr", "entity", "service", "tasks"):
        assert part in peer, peer
    assert "claim" in kubectl(plane, "explain", "tib.spec")


def test_columns_say_what_matters(plane: ControlPlane, served: ControlPlane) -> None:  # noqa: F811
    in_namespace(plane, "columns")
    plane.apply(policy("columns", 443))
    header, row = kubectl(plane, "get", "tnp", "-n", "columns").splitlines()
    assert header.split() == ["NAME", "POSTURE", "DAGS", "ACCEPTED", "ENDPOINTS", "AGE"]
    assert row.split()[0] == "etl"
    assert "etl" in kubectl(plane, "get", "dagwall", "-n", "columns"), "by their category"
