"""Policies that are too big, alone or beside others, are refused before they cost anything (P17).

A refused policy's version in force stays, and everybody else's changes go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from immutables import Map

from agent.compiler.addresses import builtin_prefixes
from agent.compiler.names import NAMES
from agent.compiler.needs import MEMBERSHIPS, AnyPolicy, Needs, needs_of
from agent.compiler.service_shares import ServiceShares
from agent.compiler.shares import Excess, blamed, each_by_itself, excess
from agent.errors import InvalidObject, TooMuch
from agent.model.changes import Changes
from agent.model.cluster import Cluster
from agent.model.policy import HttpMatch, Policy, PolicyRef, Tls

MATCHES, SELECTIONS, TERMS = 1_000_000, 4_000_000, 200_000
"""What the compiler can do of these in a few seconds and some 100 MB."""
CONDITIONS, SUBJECTS = 50_000, 40_000
"""Of one namespace: what a pod more may cost, wherever it comes, which is not known when a policy does."""


NO_NAMES = "names peers by fqdn, which this kernel cannot learn safely: it lacks feature netns_owner"
NO_HELLOS = "has rules with tls, which this kernel cannot judge: it lacks feature write_seq or sockops"
NO_REQUESTS = (
    "has rules with http, which this kernel cannot judge: it lacks feature shared_frags, write_seq or sockops"
)
Quota = tuple[str, Mapping[PolicyRef, int], int, Callable[..., dict[PolicyRef, Excess]]]
"""Of what, how much is needed by whom, how much there is, and how it is shared out."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version of a policy that is not taken, and why."""

    version: AnyPolicy
    error: InvalidObject


@dataclass(slots=True)
class Admission:
    """Kept by whoever compiles. `prefixes`, `names`: entries that these maps have room for; no `names`, no
    `hellos`, no `requests`: the kernel cannot judge by them. `digests`: of what is in force, by name; it begins with
    what an agent before had in force, so that a restart refuses nothing of it."""

    prefixes: int = 100_000
    services: ServiceShares = field(default_factory=ServiceShares)
    digests: dict[str, str] = field(default_factory=dict)
    names: int = 14_000
    hellos: bool = True
    requests: bool = True
    refused: dict[PolicyRef, Refusal] = field(default_factory=dict)
    _in_force: dict[PolicyRef, AnyPolicy] = field(default_factory=dict)
    _found_later: dict[PolicyRef, Refusal] = field(default_factory=dict)  # refused by what only the work has shown

    def admit(self, cluster: Cluster, changes: Changes) -> tuple[Cluster, Changes]:
        """The snapshot without what is refused, and what is different in it from the one before."""
        changes = self.services.admit(cluster, changes)
        if changes.everything_else:
            self._judge(cluster)
        return self.substituted(cluster), changes

    def _judge(self, cluster: Cluster) -> None:
        policies: dict[PolicyRef, AnyPolicy] = {**cluster.policies, **cluster.network_policies}
        if not self._in_force.keys() <= policies.keys():
            self._found_later.clear()  # one has gone: what was refused beside it may fit
        self._found_later = {r: each for r, each in self._found_later.items() if policies.get(r) == each.version}
        unchanged = {ref for ref, policy in policies.items() if self._has_in_force(ref, policy)}
        open_ = {ref: policy for ref, policy in policies.items() if ref not in self._found_later}
        self.refused = dict(self._found_later)
        needs = needs_of(cluster, open_)
        if not self.names:
            self._refuse_all(open_, [ref for ref, names in needs.names.items() if names], NO_NAMES)
        if not self.hellos:
            self._refuse_all(open_, [ref for ref, policy in open_.items() if _asks(policy, Tls)], NO_HELLOS)
        if not self.requests:
            self._refuse_all(open_, [ref for ref, policy in open_.items() if _asks(policy, HttpMatch)], NO_REQUESTS)
        for what, each, limit, shares in self._quotas(needs, builtin_prefixes(cluster)):
            left = {ref: need for ref, need in each.items() if ref not in self.refused}
            self._refuse(policies, shares(left, limit, unchanged), what)

    def _refuse_all(self, policies: Mapping[PolicyRef, AnyPolicy], refs: Iterable[PolicyRef], problem: str) -> None:
        """P18: a rule that cannot be judged is not weakened to one that can."""
        for ref in refs:
            self.refused[ref] = Refusal(policies[ref], InvalidObject(str(ref), "spec", problem))

    def _quotas(self, needs: Needs, builtin: int) -> tuple[Quota, ...]:
        """In the order in which they are asked; what the cluster itself needs of a map is nobody's to have."""
        return (
            ("CIDRs and exceptions", needs.prefixes, max(self.prefixes - builtin, 0), excess),
            ("places of CIDRs in one another", needs.memberships, MEMBERSHIPS, excess),
            ("terms: peers of rules, with their ports", needs.terms, TERMS, excess),
            (NAMES, needs.names, self.names, excess),
            ("conditions on peers", needs.conditions, CONDITIONS, each_by_itself),
            ("conditions on peers, times the kinds of pods", needs.matches, MATCHES, excess),
            ("conditions on subjects", needs.subjects, SUBJECTS, each_by_itself),
            ("conditions on subjects, times the pods here", needs.selections, SELECTIONS, excess),
        )

    def substituted(self, cluster: Cluster) -> Cluster:
        """The snapshot with the versions in force of what is refused; without those that never had one."""
        cluster = self.services.substituted(cluster)
        if not self.refused:
            return cluster
        return replace(
            cluster,
            policies=self._of(cluster.policies),
            network_policies=self._of(cluster.network_policies),
        )

    def too_much(self, cluster: Cluster, found: TooMuch) -> bool:
        """Refuses what makes something too much, as the work has shown; False where all of it is in force already."""
        if self.services.too_much(cluster, found):
            return True
        policies: dict[PolicyRef, AnyPolicy] = {**cluster.policies, **cluster.network_policies}
        known = {ref: need for ref, need in found.needs.items() if ref in policies and ref not in self.refused}
        unchanged = {ref for ref in known if self._has_in_force(ref, policies[ref])}
        over = excess(known, found.limit, unchanged) or blamed(known, found.over, found.limit, unchanged)
        self.refuse(cluster, over, found.what)
        return bool(over)

    def refuse(self, cluster: Cluster, over: Mapping[PolicyRef, Excess], what: str) -> None:
        """Policies, services and slices, for what only the work has shown."""
        policies: dict[PolicyRef, AnyPolicy] = {**cluster.policies, **cluster.network_policies}
        of_policies = {ref: each for ref, each in over.items() if ref in policies}
        self._refuse(policies, of_policies, what)
        self._found_later |= {ref: self.refused[ref] for ref in of_policies}
        self.services.refuse(cluster, {ref: each for ref, each in over.items() if ref not in policies}, what)

    def took(self, admitted: Cluster) -> None:
        """This snapshot, as `admit` returned it, is in force."""
        self.services.took(admitted)
        before, self._in_force = self._in_force, {**admitted.policies, **admitted.network_policies}
        if not admitted.complete or before == self._in_force:
            return
        self.digests = {
            str(ref): self.digests[str(ref)] if before.get(ref) is policy else _digest(policy)
            for ref, policy in self._in_force.items()
        }

    def errors(self) -> tuple[InvalidObject, ...]:
        return (
            *(refusal.error for _, refusal in sorted(self.refused.items())),
            *self.services.errors(),
        )

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
            self.refused[ref] = Refusal(
                policies[ref], InvalidObject(str(ref), "spec", f"{over.sentence(what)}; {stays}")
            )

    def _of(self, given: Map[PolicyRef, Any]) -> Map[PolicyRef, Any]:
        kept = given.mutate()
        for ref in self.refused.keys() & set(given):
            before = self._in_force.get(ref)
            if before is None:
                del kept[ref]
            else:
                kept[ref] = before
        return kept.finish()


def _asks(policy: AnyPolicy, kind: type[Tls] | type[HttpMatch]) -> bool:
    rules = (rule for _, rule in policy.rules()) if isinstance(policy, Policy) else iter(())
    return any(isinstance(each, kind) for rule in rules for each in rule.demands)


def _digest(policy: AnyPolicy) -> str:
    """The same for equal policies, in every process."""
    return blake2b(repr(policy).encode(), digest_size=16).hexdigest()
