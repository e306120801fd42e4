"""I4 and I5, word for word and slowly: what a claim is worth, for judge.py."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.binding import Contradiction, ExclusiveScope, TaskIdentityBinding
from agent.model.cluster import Cluster
from agent.model.identity import Attestation, Identity
from agent.model.policy import Posture
from agent.semantics.selecting import claims


@dataclass(frozen=True, slots=True)
class Worth:
    """Of a claim, by the bindings alone."""

    attestation: Attestation = Attestation.CLAIMED
    contradiction: Contradiction | None = None  # of the first that is enforced, else of the first
    quarantined: bool = False


def worth_of(cluster: Cluster, identity: Identity) -> Worth:
    """Who claims no dag contradicts nothing, and has nothing that could be bound."""
    bindings = [cluster.bindings[name] for name in sorted(cluster.bindings)] if identity.dag_id else []
    mine = [b for b in bindings if b.is_of(identity)]
    bound = any(_allows(b, identity) for b in mine)
    if bound:
        return Worth(Attestation.BOUND)
    broken = [b for b in bindings if b.is_of(identity) or _keeps_from(b, identity)]
    strict = [b for b in broken if b.posture is Posture.ENFORCE]
    if not broken:
        return Worth()
    worst = (strict or broken)[0]
    against = Contradiction(identity, worst.name, keeps=not worst.is_of(identity))
    return Worth(Attestation.CLAIMED, against, bool(strict) and not cluster.settings.audit_everything)


def _keeps_from(binding: TaskIdentityBinding, identity: Identity) -> bool:
    if not binding.exclusive or binding.is_of(identity):
        return False
    if binding.exclusive_scope is not ExclusiveScope.CLUSTER and binding.namespace != identity.namespace:
        return False
    return claims(binding.dag_ids, binding.task_ids, identity, perhaps=True)


def _allows(binding: TaskIdentityBinding, identity: Identity) -> bool:
    return claims(binding.dag_ids, binding.task_ids, identity)
