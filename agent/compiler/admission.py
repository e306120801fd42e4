"""Policies that are too big, alone or beside others, are refused before they cost anything (P17).

A refused policy's version in force stays, and everybody else's changes go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from immutables import Map

from agent.compiler.needs import AnyPolicy, needs_of
from agent.compiler.shares import Excess, excess
from agent.errors import InvalidObject
from agent.model.cluster import Cluster
from agent.model.policy import PolicyRef

MEMBERSHIPS, MATCHES = 2_000_000, 1_000_000
"""What the compiler can do of these in a few seconds and some 100 MB."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version of a policy that is not taken, and why."""

    version: AnyPolicy
    error: InvalidObject


@dataclass(slots=True)
class Admission:
    """Kept by whoever compiles. `prefixes`: entries that map `peers` has room for. `digests`: of what is in force, by
    name; it begins with what an agent before had in force, so that a restart refuses nothing of it."""

    prefixes: int = 100_000
    digests: dict[str, str] = field(default_factory=dict)
    refused: dict[PolicyRef, Refusal] = field(default_factory=dict)
    _in_force: dict[PolicyRef, AnyPolicy] = field(default_factory=dict)
    _for_rows: dict[PolicyRef, Refusal] = field(default_factory=dict)

    def admit(self, cluster: Cluster) -> Cluster:
        """The snapshot without what is refused. To be asked when policies or namespaces may have changed."""
        policies: dict[PolicyRef, AnyPolicy] = {**cluster.policies, **cluster.network_policies}
        if not self._in_force.keys() <= policies.keys():
            self._for_rows.clear()  # one has gone: what was refused beside it may fit
        self._for_rows = {r: each for r, each in self._for_rows.items() if policies.get(r) == each.version}
        unchanged = {ref for ref, policy in policies.items() if self._has_in_force(ref, policy)}
        open_ = {ref: policy for ref, policy in policies.items() if ref not in self._for_rows}
        needs = needs_of(cluster, open_)
        self.refused = dict(self._for_rows)
        for what, each, limit in (
            ("CIDRs and exceptions", needs.prefixes, self.prefixes),
            ("places of CIDRs in one another", needs.memberships, MEMBERSHIPS),
            ("conditions on peers, times the kinds of pods here", needs.matches, MATCHES),
        ):
            left = {ref: need for ref, need in each.items() if ref not in self.refused}
            self._refuse(policies, excess(left, limit, unchanged), what)
        return self.substituted(cluster)

    def substituted(self, cluster: Cluster) -> Cluster:
        """The snapshot with the versions in force of what is refused; without those that never had one."""
        if not self.refused:
            return cluster
        return replace(
            cluster,
            policies=self._of(cluster.policies),
            network_policies=self._of(cluster.network_policies),
        )

    def too_many_rows(self, cluster: Cluster, needs: Mapping[PolicyRef, int], limit: int) -> bool:
        """Refuses what makes the rows too many; False where all of it is in force already."""
        policies: dict[PolicyRef, AnyPolicy] = {**cluster.policies, **cluster.network_policies}
        known = {ref: need for ref, need in needs.items() if ref in policies and ref not in self.refused}
        unchanged = {ref for ref in known if self._has_in_force(ref, policies[ref])}
        found = excess(known, limit, unchanged)
        self._refuse(policies, found, "rows of map rules")
        self._for_rows |= {ref: self.refused[ref] for ref in found}
        return bool(found)

    def took(self, admitted: Cluster) -> None:
        """This snapshot, as `admit` returned it, is in force."""
        before, self._in_force = self._in_force, {**admitted.policies, **admitted.network_policies}
        if not admitted.complete or before == self._in_force:
            return
        self.digests = {
            str(ref): self.digests[str(ref)] if before.get(ref) is policy else _digest(policy)
            for ref, policy in self._in_force.items()
        }

    def errors(self) -> tuple[InvalidObject, ...]:
        return tuple(refusal.error for _, refusal in sorted(self.refused.items()))

    def sentences(self) -> dict[PolicyRef, str]:
        """Why a policy's newest version is not taken."""
        return {ref: refusal.error.problem for ref, refusal in self.refused.items()}

    def _has_in_force(self, ref: PolicyRef, policy: AnyPolicy) -> bool:
        before = self._in_force.get(ref)
        if before is None and not self._in_force:  # nothing was taken yet: an agent before may have had it
            return self.digests.get(str(ref)) == _digest(policy) if self.digests else False
        return before == policy

    def _refuse(self, policies: Mapping[PolicyRef, AnyPolicy], found: Mapping[PolicyRef, Excess], what: str) -> None:
        for ref, over in found.items():
            stays = "the version before stays in force" if ref in self._in_force else "no version of it is in force"
            text = f"is too big: it needs {over.need:,} {what}, {over.whose} may have {over.quota:,}; {stays}"
            self.refused[ref] = Refusal(policies[ref], InvalidObject(str(ref), "spec", text))

    def _of(self, given: Map[PolicyRef, Any]) -> Map[PolicyRef, Any]:
        kept = given.mutate()
        for ref in self.refused.keys() & set(given):
            before = self._in_force.get(ref)
            if before is None:
                del kept[ref]
            else:
                kept[ref] = before
        return kept.finish()


def _digest(policy: AnyPolicy) -> str:
    """The same for equal policies, in every process."""
    return blake2b(repr(policy).encode(), digest_size=16).hexdigest()
