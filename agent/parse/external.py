"""External identities as operators write them: annotations of service accounts, projected tokens of pods.

Sources: EKS "IAM roles for service accounts"; GKE "Workload Identity Federation"; Microsoft Entra Workload ID;
SPIRE's k8s-workload-registrar; Kubernetes, ServiceAccountTokenProjection. Nobody checks their words any further: what
an operator has mistyped is shown as it is, cut where it is longer than any of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.external import ExternalIdentity, Party
from agent.parse.fields import Field
from agent.text import printable

MOST = 8
"""Of a service account or a pod, that are kept."""
_LONGEST = 256
_OF_ACCOUNTS = {
    "eks.amazonaws.com/role-arn": Party.AWS,
    "iam.gke.io/gcp-service-account": Party.GCP,
    "azure.workload.identity/client-id": Party.AZURE,
}
_OF_PODS = {
    "azure.workload.identity/client-id": Party.AZURE,
    "spiffe.io/spiffe-id": Party.SPIFFE,
}


def of_account(annotations: Field) -> tuple[ExternalIdentity, ...]:
    """What the annotations of a service account say."""
    return tuple(_annotated(annotations, _OF_ACCOUNTS))


def of_pod(annotations: Field, spec: Field, namespace: str, account: str) -> tuple[ExternalIdentity, ...]:
    """What a pod adds: its annotations, and its projected tokens that are not for the API server."""
    found = [*_annotated(annotations, _OF_PODS), *_tokens(spec, f"system:serviceaccount:{namespace}:{account}")]
    return tuple(dict.fromkeys(found))[:MOST]


def _annotated(annotations: Field, parties: dict[str, Party]) -> Iterator[ExternalIdentity]:
    for name, party in parties.items():
        value = annotations.child(name).string("").strip()
        if value:
            yield ExternalIdentity(party, _short(value))


def _tokens(spec: Field, subject: str) -> Iterator[ExternalIdentity]:
    for volume in spec.child("volumes").optional_items():
        for source in volume.child("projected").child("sources").optional_items():
            audience = source.child("serviceAccountToken").child("audience").string("")
            if audience:
                yield ExternalIdentity(Party.OIDC, subject, _short(audience))


def _short(value: str) -> str:
    return printable(value)[:_LONGEST]
