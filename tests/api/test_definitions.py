"""The CRDs on real servers, an old and a current one: accepted, and of one mind with the agent's validator."""

from __future__ import annotations

import json
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from agent.errors import InvalidObject
from agent.parse.definitions import definitions
from agent.parse.objects import parse_object
from tests.api.control_plane import ControlPlane
from tests.api.crd_server import CrdServer
from tests.api.policy_objects import CASES, DNS, UNKNOWN_FIELDS, Spec, typed
from tests.api.requests import Requests
from tests.api.test_source import in_namespace

KINDS = ("tasknetworkpolicies", "clustertasknetworkpolicies", "taskidentitybindings")


def serve(server: Requests) -> None:
    """Installs the definitions and waits until their kinds are there."""
    server.apply(*definitions())
    deadline = time.monotonic() + 30
    for plural in KINDS:
        while True:
            try:
                server.request("GET", f"/apis/dagwall.io/v1alpha1/{plural}")
                break
            except urllib.error.HTTPError:
                assert time.monotonic() < deadline
                time.sleep(0.2)


@pytest.fixture(scope="module")
def served(plane: ControlPlane) -> ControlPlane:
    in_namespace(plane, "crds")
    serve(plane)
    return plane


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrdServer]:
    with CrdServer(tmp_path_factory.mktemp("crds")) as server:
        serve(server)
        yield server


def test_a_current_server_accepts_the_definitions(current: CrdServer) -> None:
    """Cost budgets of CEL, and what a structural schema may be."""
    for definition in definitions():
        name = definition["metadata"]["name"]
        found = current.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        conditions = {c["type"]: (c["status"], c.get("message", "")) for c in found["status"]["conditions"]}
        assert conditions["Established"][0] == "True"
        assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize(("kind", "spec", "valid", "by_cel"), CASES, ids=str)
def test_a_current_server_judges_as_the_agent(
    current: CrdServer, kind: str, spec: Spec, *, valid: bool, by_cel: bool
) -> None:
    refused = current.refusal(typed(kind, spec))
    assert (refused == "") == valid, refused
    if by_cel:
        assert "endPort needs a port" in refused
    _agent_agrees(typed(kind, spec), valid=valid)


def test_a_label_may_be_empty(current: CrdServer) -> None:
    """Not on Kubernetes 1.20, which takes an empty text in a map for null."""
    obj = typed("TaskNetworkPolicy", {"subject": {"podSelector": {"matchLabels": {"a": ""}}}})
    assert current.refusal(obj) == ""
    parse_object(obj)


@pytest.mark.parametrize(("kind", "spec", "valid", "by_cel"), CASES, ids=str)
def test_an_old_server_does_but_for_cel(
    served: ControlPlane, kind: str, spec: Spec, *, valid: bool, by_cel: bool
) -> None:
    refused = served.refusal(typed(kind, spec))
    assert (refused == "") == (valid or by_cel), refused
    _agent_agrees(typed(kind, spec), valid=valid)


def _agent_agrees(obj: dict[str, Any], *, valid: bool) -> None:
    if valid:
        parse_object(obj)
        return
    with pytest.raises(InvalidObject):
        parse_object(obj)


@pytest.mark.parametrize("spec", UNKNOWN_FIELDS, ids=str)
def test_unknown_fields_reach_the_agent(current: CrdServer, spec: Spec) -> None:
    """A client without strict validation: what the server dropped, nobody could refuse (P17)."""
    obj = typed("TaskNetworkPolicy", spec, "unknown")
    current.delete(obj)
    (kept,) = current.apply(obj)
    assert spec.items() <= kept["spec"].items()
    with pytest.raises(InvalidObject, match="unknown field"):
        parse_object(kept)


def test_a_field_beside_the_spec_reaches_the_agent(current: CrdServer) -> None:
    obj = typed("TaskNetworkPolicy", {}, "beside") | {"egress": []}
    current.delete(obj)
    (kept,) = current.apply(obj)
    with pytest.raises(InvalidObject, match="unknown field 'egress'"):
        parse_object(kept)


def test_the_posture_that_counts_is_written_down(current: CrdServer) -> None:
    policy = typed("TaskNetworkPolicy", {"egress": []}, "defaults")
    binding = typed("TaskIdentityBinding", {"namespace": "a", "serviceAccounts": ["b"], "dagIds": ["c"]}, "defaults")
    for obj, posture in ((policy, "enforce"), (binding, "audit")):
        current.delete(obj)
        (kept,) = current.apply(obj)
        assert kept["spec"]["posture"] == posture
        assert parse_object(kept) == parse_object(obj), "and is what the agent assumes anyway"


def test_statuses_are_applied_beside_the_spec(current: CrdServer) -> None:
    """As the agent writes them: server-side apply on the subresource, by a manager of its own."""
    obj = typed("TaskNetworkPolicy", {"egress": [{"to": [DNS]}]}, "applied")
    path = current.path_of(obj, named=True)
    current.delete(obj)
    kind = "application/apply-patch+yaml"
    current.request("PATCH", f"{path}?fieldManager=people", obj, kind=kind)
    status = {
        "observedGeneration": 1, "nodes": 2, "endpoints": 3,
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Valid", "message": "it is valid"}],
    }  # fmt: skip
    body = {key: obj[key] for key in ("apiVersion", "kind", "metadata")} | {"status": status}
    current.request("PATCH", f"{path}/status?fieldManager=dagwall&force=true", body, kind=kind)
    kept = current.request("PATCH", f"{path}?fieldManager=people", obj, kind=kind)
    assert (kept["status"], kept["spec"]["egress"]) == (status, obj["spec"]["egress"])
    with pytest.raises(urllib.error.HTTPError) as refused:
        current.request("PATCH", f"{path}?fieldManager=others", {**obj, "spec": {"egress": []}}, kind=kind)
    assert refused.value.code == 409, "two managers of one list"


def test_a_definition_is_small_enough_for_client_side_apply() -> None:
    """kubectl keeps the object in an annotation; all of them have 256 KiB."""
    assert max(len(json.dumps(definition)) for definition in definitions()) < 200_000
