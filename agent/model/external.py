"""Who a task is outside of the cluster: what a cloud or an OIDC party makes of its service account and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Party(str, Enum):
    """Who knows the identity."""

    AWS = "aws"  # a role's ARN
    GCP = "gcp"  # a service account's address
    AZURE = "azure"  # a managed identity's or an application's client id
    SPIFFE = "spiffe"  # a SPIFFE id
    OIDC = "oidc"  # the subject of a Kubernetes token for this audience


@dataclass(frozen=True, slots=True, order=True)
class ExternalIdentity:
    """`audience`: who the token is for; of OIDC only."""

    party: Party
    id: str
    audience: str = ""

    def __str__(self) -> str:
        """`aws:arn:aws:iam::1:role/etl`, `oidc:system:serviceaccount:ns:etl@vault`."""
        return f"{self.party.value}:{self.id}" + (f"@{self.audience}" if self.audience else "")
