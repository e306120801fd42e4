"""TaskIdentityBinding: which service accounts may claim which dag and task ids (I5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agent.model.policy import Posture


class ExclusiveScope(str, Enum):
    """Who else may not carry the ids of an exclusive binding."""

    NAMESPACE = "namespace"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class TaskIdentityBinding:
    """Pods of these service accounts may claim these ids; `exclusive`: nobody else may.

    In audit a contradiction is reported, and changes no verdict.
    """

    name: str
    namespace: str
    service_accounts: tuple[str, ...]
    dag_ids: tuple[str, ...]
    task_ids: tuple[str, ...] = ()  # every task
    exclusive: bool = False
    exclusive_scope: ExclusiveScope = ExclusiveScope.NAMESPACE
    posture: Posture = Posture.AUDIT
