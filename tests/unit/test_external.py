"""Who a task is outside of the cluster: read, kept up, and named in every report."""

from __future__ import annotations

from dataclasses import replace

from agent.model.changes import Changes
from agent.model.cluster import ServiceAccount, Settings
from agent.model.external import ExternalIdentity, Party
from agent.model.identity import PodUid
from agent.outputs.hubble import documents_of
from agent.outputs.records import record_of
from agent.parse.objects import parse_object
from agent.sources.store import Store
from tests.unit.seen import flow

UID = "0a1b2c3d-0000-4000-8000-000000000001"
ROLE = ExternalIdentity(Party.AWS, "arn:aws:iam::111122223333:role/etl")


def account(**annotations: str) -> ServiceAccount:
    made = parse_object({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "etl", "namespace": "airflow", "annotations": annotations},
    })  # fmt: skip
    assert isinstance(made, ServiceAccount)
    return made


def pod(*volumes: object, **annotations: str):  # type: ignore[no-untyped-def]
    return parse_object({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "airflow", "uid": UID, "annotations": annotations},
        "spec": {"nodeName": "n1", "serviceAccountName": "etl", "containers": [], "volumes": list(volumes)},
    })  # fmt: skip


def token(audience: str | None) -> object:
    fields = {"path": "token"} | ({} if audience is None else {"audience": audience})
    return {"name": "t", "projected": {"sources": [{"serviceAccountToken": fields}, {"configMap": {"name": "ca"}}]}}


def test_annotations_of_a_service_account() -> None:
    found = account(**{
        "eks.amazonaws.com/role-arn": ROLE.id, "iam.gke.io/gcp-service-account": " etl@p.iam.gserviceaccount.com ",
        "azure.workload.identity/client-id": "00000000-1111-2222-3333-444444444444", "other": "x",
    }).external  # fmt: skip
    assert list(map(str, found)) == [
        f"aws:{ROLE.id}", "gcp:etl@p.iam.gserviceaccount.com", "azure:00000000-1111-2222-3333-444444444444"
    ]  # fmt: skip
    assert account().external == ()
    (long,) = account(**{"eks.amazonaws.com/role-arn": "x\n" * 500}).external
    assert len(long.id) == 256
    assert "\n" not in long.id


def test_tokens_of_a_pod_are_named_by_whom_they_are_for() -> None:
    """Those for the API server are everybody's, and say nothing."""
    found = pod(token(None), token("sts.amazonaws.com"), token("vault"), token("vault")).external
    subject = "system:serviceaccount:airflow:etl"
    assert list(map(str, found)) == [f"oidc:{subject}@sts.amazonaws.com", f"oidc:{subject}@vault"]
    assert list(map(str, pod(**{"spiffe.io/spiffe-id": "spiffe://prod/etl"}).external)) == [
        "spiffe:spiffe://prod/etl"
    ]
    assert len(pod(*(token(f"a{n}") for n in range(50))).external) == 8


def test_another_annotation_names_the_pods_of_the_account_anew_and_no_rule() -> None:
    store = Store()
    store.configure(Settings(node="n1"))
    store.apply([pod(), replace(pod(), uid=PodUid("other"), node="n2")])
    assert store.apply([account()]) == Changes(pods=frozenset({PodUid(UID)}))
    assert store.apply([account()]) == Changes()
    changes = store.apply([account(**{"eks.amazonaws.com/role-arn": ROLE.id})])
    assert changes == Changes(pods=frozenset({PodUid(UID)}))
    assert store.snapshot.service_accounts["airflow", "etl"].external == (ROLE,)


def test_reports_name_them() -> None:
    seen = flow()
    named = replace(seen, endpoint=replace(seen.endpoint, external=(ROLE,)))
    assert record_of(named).external_identities == (f"aws:{ROLE.id}",)
    (document,) = documents_of(named, "n1", "0")
    (plain,) = documents_of(seen, "n1", "0")
    assert str(document).count(ROLE.id) == 1
    assert "external_identities" not in str(plain)
