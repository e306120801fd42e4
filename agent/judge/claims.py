"""I4 and I5, word for word and slowly: what a claim is worth, for judge.py."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.binding import ExclusiveScope, TaskIdentityBinding
from agent.model.cluster import Cluster
from agent.model.identity import Attestation, Identity
from agent.model.policy import Posture
from agent.semantics.selecting import claims


@dataclass(frozen=True, slots=True)
class Worth:
    """Of a claim, by the bindings alone."""

    attestation: Attestation = Attestation.CLAIMED
    contradiction: str = ""  # a sentence: the first that is enforced, else the first
    quarantined: bool = False


def worth_of(cluster: Cluster, identity: Identity) -> Worth:
    """Who claims no dag contradicts nothing, and has nothing that could be bound."""
    bindings = [cluster.bindings[name] for name in sorted(cluster.bindings)] if identity.dag_id else []
    mine = [b for b in bindings if _is_of(b, identity)]
    bound = any(_allows(b, identity) for b in mine)
    if bound:
        return Worth(Attestation.BOUND)
    broken = [b for b in bindings if _is_of(b, identity) or _keeps_from(b, identity)]
    strict = [b for b in broken if b.posture is Posture.ENFORCE]
    return Worth(
        Attestation.CLAIMED,
        _sentence((strict or broken)[0], identity) if broken else "",
        bool(strict) and not cluster.settings.audit_everything,
    )


def _is_of(binding: TaskIdentityBinding, identity: Identity) -> bool:
    return binding.namespace == identity.namespace and identity.service_account in binding.service_accounts


def _keeps_from(binding: TaskIdentityBinding, identity: Identity) -> bool:
    if not binding.exclusive or _is_of(binding, identity):
        return False
    if binding.exclusive_scope is not ExclusiveScope.CLUSTER and binding.namespace != identity.namespace:
        return False
    return claims(binding.dag_ids, binding.task_ids, identity, perhaps=True)


def _allows(binding: TaskIdentityBinding, identity: Identity) -> bool:
    return claims(binding.dag_ids, binding.task_ids, identity)


def _sentence(binding: TaskIdentityBinding, identity: Identity) -> str:
    claim = identity.dag_id + (f"/{identity.task_id}" if identity.task_id else "")
    wrong = "does not allow it" if _is_of(binding, identity) else "keeps for others"
    who = f"{identity.namespace}/{identity.service_account}"
    return f"{who} claims {claim}, which TaskIdentityBinding/{binding.name} {wrong}"
