"""Who gets what of what a node has only so much of: quotas for a policy, a namespace, and the node (P17)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.model.policy import PolicyRef

OF_POLICY, OF_NAMESPACE = 4, 2
"""One policy may have a quarter of what there is, the policies of one namespace half of it."""


@dataclass(frozen=True, slots=True)
class Excess:
    """What a policy needs, and the quota that it breaks."""

    need: int
    quota: int
    whose: str  # "one policy", "the policies of namespace etl", "this node"


def excess(needs: Mapping[PolicyRef, int], limit: int, in_force: Collection[PolicyRef]) -> dict[PolicyRef, Excess]:
    """Policies to refuse so that the others fit: of the greediest namespace first, in it the greatest policy first.

    What is in force already is never refused, since without it more might pass. Same input, same answer.
    """
    open_ = {ref: need for ref, need in needs.items() if ref not in in_force}
    found: dict[PolicyRef, Excess] = {}
    left = Counter[str]()
    for ref, need in needs.items():
        left[ref.namespace] += need

    def refuse(ref: PolicyRef, quota: int, whose: str) -> None:
        found[ref] = Excess(need := open_.pop(ref), quota, whose)
        left[ref.namespace] -= need

    for ref in sorted(ref for ref, need in open_.items() if need > limit // OF_POLICY):
        refuse(ref, limit // OF_POLICY, "one policy")
    for namespace in sorted(left):
        whose = f"the policies of namespace {namespace}" if namespace else "the cluster's policies"
        for ref in _greatest_first(open_, namespace):
            if left[namespace] > limit // OF_NAMESPACE:
                refuse(ref, limit // OF_NAMESPACE, whose)
    while left.total() > limit:
        greediest = sorted({ref.namespace for ref, need in open_.items() if need}, key=lambda n: (-left[n], n))
        if not greediest:
            break
        refuse(_greatest_first(open_, greediest[0])[0], limit, "this node")
    return found


def _greatest_first(needs: Mapping[PolicyRef, int], namespace: str) -> list[PolicyRef]:
    own = (ref for ref, need in needs.items() if ref.namespace == namespace and need)
    return sorted(own, key=lambda ref: (-needs[ref], ref))
