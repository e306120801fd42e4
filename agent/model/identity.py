"""Who a pod is: the hard key that Kubernetes vouches for, and the refinement that the pod claims (I1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NewType

PodUid = NewType("PodUid", str)
"""metadata.uid of a pod, lower case with dashes; for static pods the 32 hex digits of their config hash."""

IdentityNumber = NewType("IdentityNumber", int)
"""Local to the node, from FIRST_IDENTITY up (I6)."""

FIRST_IDENTITY = 1 << 24

_STATIC_HASH = re.compile(r"[0-9a-f]{32}")
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_static_hash(text: str) -> bool:
    """Whether a uid is a static pod's config hash."""
    return _STATIC_HASH.fullmatch(text) is not None


def is_pod_uid(text: str) -> bool:
    """Whether this is a PodUid: a lower-case UUID, or a static pod's config hash."""
    return _UID.fullmatch(text) is not None or is_static_hash(text)


class Kind(str, Enum):
    """What started the pod (I1, I3); part of the identity."""

    KUBERNETES_EXECUTOR = "kubernetes-executor"
    KUBERNETES_POD_OPERATOR = "kubernetes-pod-operator"
    SPARK_OPERATOR = "spark-operator"
    COMPONENT = "component"
    OTHER = "other"


class Attestation(IntEnum):
    """How much the dag/task claim is worth (I4)."""

    CLAIMED = 0
    BOUND = 1
    SIGNED = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """What policies select and people read. Equal identities share one number."""

    cluster: str
    namespace: str
    service_account: str
    dag_id: str  # "" when the pod claims none
    task_id: str
    kind: Kind
    ambiguous: bool = False  # dag_id/task_id come from labels, which Airflow hashes and which collide

    def __str__(self) -> str:
        task = f"{self.dag_id}/{self.task_id}" if self.dag_id else self.kind.value
        return f"{self.namespace}/{self.service_account}/{task}" + ("?" if self.ambiguous else "")


@dataclass(frozen=True, slots=True)
class Claim:
    """Everything read from a pod at the first sight of its uid, and frozen then (I2).

    `labels` are those of that moment: dagwall's own podSelector reads them, native NetworkPolicy does not.
    """

    identity: Identity
    labels: tuple[tuple[str, str], ...]
    attestation: Attestation = Attestation.CLAIMED
    run_id: str = ""
    try_number: str = ""
    map_index: str = ""
    contradictions: tuple[str, ...] = ()  # sentences: where labels and annotations differ
    late: bool = False  # first seen long after the pod was made: it may have been written since (I2)
