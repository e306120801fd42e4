"""What a pod's claim is worth by the TaskIdentityBindings, and which of them it contradicts (I4, I5)."""

from __future__ import annotations

from dataclasses import dataclass

from agent.memo import Memo
from agent.model.binding import Contradiction, ExclusiveScope, TaskIdentityBinding
from agent.model.cluster import Cluster, Name
from agent.model.identity import Attestation, Claim, Identity
from agent.model.policy import Posture
from agent.semantics.selecting import claims


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a claim. `binding` names what it contradicts, else what vouches for it."""

    attestation: Attestation
    binding: str = ""
    contradiction: Contradiction | None = None
    quarantined: bool = False


class Bindings:
    """Bindings by service account. Every answer follows from the identity alone, so equal claims share it."""

    def __init__(self, cluster: Cluster) -> None:
        self._spares = cluster.settings.audit_everything
        self._of: dict[Name, list[TaskIdentityBinding]] = {}
        self._exclusive: list[TaskIdentityBinding] = []
        for _, binding in sorted(cluster.bindings.items()):
            for account in binding.service_accounts:
                self._of.setdefault((binding.namespace, account), []).append(binding)
            if binding.exclusive:
                self._exclusive.append(binding)
        self._answers: Memo[Identity, Standing] = Memo()

    def standing(self, claim: Claim) -> Standing:
        """A claim that a binding of its service account allows is bound; one without a dag id contradicts nothing."""
        identity = claim.identity
        if not identity.dag_id or not self._of:
            return Standing(claim.attestation)
        known = self._answers.get(identity, lambda: self._evaluated(identity))
        if claim.attestation <= known.attestation:
            return known
        return Standing(claim.attestation, known.binding, known.contradiction, known.quarantined)

    def trusts(self, claim: Claim) -> bool:
        """Does it count for a `tasks` peer that allows? Not one that may have been written after the pod was made,
        unless a binding vouches for it (I2)."""
        return not claim.late or self.standing(claim).attestation >= Attestation.BOUND

    def _evaluated(self, identity: Identity) -> Standing:
        own = self._of.get((identity.namespace, identity.service_account), [])
        allowing = [each for each in own if claims(each.dag_ids, each.task_ids, identity)]
        if allowing:  # what one binding vouches for, no other contradicts (I5)
            return Standing(Attestation.BOUND, allowing[0].name)
        others = (each for each in self._exclusive if each not in own and _reaches(each, identity))
        against = [*(each for each in others if claims(each.dag_ids, each.task_ids, identity, perhaps=True)), *own]
        if not against:
            return Standing(Attestation.CLAIMED)
        worst = min(against, key=lambda each: (each.posture is not Posture.ENFORCE, each.name))
        return Standing(
            Attestation.CLAIMED,
            worst.name,
            Contradiction(identity, worst.name, keeps=worst not in own),
            quarantined=worst.posture is Posture.ENFORCE and not self._spares,
        )


def _reaches(binding: TaskIdentityBinding, identity: Identity) -> bool:
    """Does it keep its ids from this identity?"""
    return binding.namespace == identity.namespace or binding.exclusive_scope is ExclusiveScope.CLUSTER
