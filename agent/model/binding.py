"""TaskIdentityBinding: which service accounts may claim which dag and task ids (I5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agent.model.identity import Identity
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

    def is_of(self, identity: Identity) -> bool:
        """Does it speak about this identity's service account?"""
        return identity.namespace == self.namespace and identity.service_account in self.service_accounts


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A claim that a binding speaks against: `keeps`, because it keeps the ids for others; else because it does not
    allow them to the claim's own service account (I5)."""

    identity: Identity
    binding: str
    keeps: bool

    def __str__(self) -> str:
        who = self.identity
        claim = f"{who.dag_id}/{who.task_id}" if who.task_id else who.dag_id
        wrong = "keeps for others" if self.keeps else "does not allow it"
        return (
            f"{who.namespace}/{who.service_account} claims {claim}, which TaskIdentityBinding/{self.binding} {wrong}"
        )
