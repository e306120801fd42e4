"""The layer of dagwall's own kinds (P1): which policies select a pod by its claim, and what they come to together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from agent.compiler.layers import Layer, LayerKind, LoweredRule, Side, deny_allow_isolate
from agent.compiler.ownports import OwnPorts, PortName, names_of, resolved
from agent.compiler.terms import Lowering, Term, weight_of
from agent.memo import Memo
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Attestation
from agent.model.policy import DefaultPosture, Entity, Policy, PolicyRef, PortMatch, Posture, Rule, RuleRef
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction
from agent.semantics.builtin import AGENT_METRICS, OBSERVED, baseline_ref
from agent.semantics.selecting import selects

DAGWALL = LayerKind("dagwall", deny_allow_isolate, default=OBSERVED, judges_names=True)

Enlisted = tuple[tuple[int, bool], ...]
"""Policies that select a pod, and whether their allow rules count for it (I1, I4)."""


@dataclass(frozen=True, slots=True)
class LoweredPolicy:
    """A policy whose rules are terms. `own_ports`: names that only the endpoint's own pod can resolve. `weight`: what
    its terms cost a ruleset."""

    policy: Policy
    enforced: bool
    allow: tuple[tuple[LoweredRule, ...], tuple[LoweredRule, ...]]
    deny: tuple[tuple[LoweredRule, ...], tuple[LoweredRule, ...]]
    own_ports: frozenset[PortName]
    weight: int

    def terms(self) -> Iterator[Term]:
        return (t for group in (*self.allow, *self.deny) for rule in group for t in rule.terms)


def lower(policy: Policy, lowering: Lowering) -> LoweredPolicy:
    enforced = policy.posture is Posture.ENFORCE and not lowering.settings.audit_everything

    def lowered(
        rules: tuple[Rule, ...] | None, direction: Direction, *, denies: bool = False
    ) -> tuple[LoweredRule, ...]:
        return tuple(
            LoweredRule(
                RuleRef(policy.ref, rule.name), enforced, lowering.rule(rule, denies=denies), demands=rule.demands
            )
            for rule in rules or ()
            if rule.direction is direction
        )

    allow = lowered(policy.egress, Direction.EGRESS), lowered(policy.ingress, Direction.INGRESS)
    deny = (
        lowered(policy.deny, Direction.EGRESS, denies=True),
        lowered(policy.deny, Direction.INGRESS, denies=True),
    )
    terms = [term for group in (*allow, *deny) for rule in group for term in rule.terms]
    return LoweredPolicy(policy, enforced, allow, deny, names_of(terms), weight_of(terms))


class OwnPolicies:
    """Policies by the namespace they stand in."""

    judges_backends = False

    def __init__(self, cluster: Cluster, lowering: Lowering) -> None:
        self._settings, self._lowering = cluster.settings, lowering
        self.policies = [lower(policy, lowering) for _, policy in sorted(cluster.policies.items())]
        self._by_namespace: dict[str, list[int]] = {}
        self._label_keys: set[str] = set()
        for i, lowered in enumerate(self.policies):
            self._by_namespace.setdefault(lowered.policy.ref.namespace, []).append(i)
            selector = lowered.policy.subject.pod_selector
            self._label_keys.update(r.key for r in (selector.requirements if selector else ()))
        self._selections: Memo[Hashable, tuple[tuple[int, bool], ...]] = Memo()

    def terms(self) -> Iterator[Term]:
        """Of policies, and of any baseline."""
        for lowered in self.policies:
            yield from lowered.terms()
        for entity in Entity:
            yield from self._lowering.entity(entity, None, Direction.EGRESS)
        if self._settings.metrics_port:
            yield from self._metrics_terms()

    def select(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> Enlisted:
        found = self._selected(pod, namespace)
        return tuple((i, sure and self.policies[i].policy.attestation <= attestation) for i, sure in found)

    def refs(self, selected: Enlisted) -> tuple[PolicyRef, ...]:
        return tuple(self.policies[i].policy.ref for i, _ in selected)

    def terms_of(self, selected: Enlisted) -> Iterator[tuple[PolicyRef, int]]:
        return ((self.policies[i].policy.ref, self.policies[i].weight) for i, _ in selected)

    def own_ports(self, selected: Enlisted) -> Iterator[PortName]:
        return (name for i, _ in selected for name in self.policies[i].own_ports)

    def grants_raw_sockets(self, selected: Enlisted) -> bool:
        policies = ((self.policies[i], may) for i, may in selected)
        return any(may and p.enforced and p.policy.raw_sockets for p, may in policies)

    def layers(self, selected: Enlisted, own: OwnPorts, namespace: Namespace) -> tuple[Layer, ...]:
        """One, also where nothing selects the pod: the default posture and the baseline are its own (P5, P6)."""
        enlisted = [(self.policies[i], may) for i, may in selected]
        egress, ingress = (self._side(enlisted, own, namespace, direction) for direction in Direction)
        return (Layer(DAGWALL, egress, ingress),)

    def _selected(self, pod: Pod, namespace: Namespace) -> tuple[tuple[int, bool], ...]:
        """Policies, and whether they select the pod for sure (I1)."""
        labels = tuple(pair for pair in pod.claim.labels if pair[0] in self._label_keys)
        key = (pod.claim.identity, pod.namespace, labels)
        return self._selections.get(key, lambda: tuple(self._selecting(pod, namespace)))

    def _selecting(self, pod: Pod, namespace: Namespace) -> Iterator[tuple[int, bool]]:
        labels = dict(pod.claim.labels)
        for i in (*self._by_namespace.get("", ()), *self._by_namespace.get(pod.namespace, ())):
            policy = self.policies[i].policy
            if selects(policy, pod, labels, namespace):
                yield i, selects(policy, pod, labels, namespace, perhaps=False)

    def _side(
        self, enlisted: list[tuple[LoweredPolicy, bool]], own: OwnPorts, namespace: Namespace, direction: Direction
    ) -> Side:
        """Allow rules need the attestation; isolation and deny rules do not (I4). The default posture is P5."""
        denies = (namespace.default_posture or self._settings.default_posture) is DefaultPosture.DENY
        speaking = [p for p, _ in enlisted if p.policy.speaks_about(direction) is not None]
        allow = [rule for p, may in enlisted if may for rule in p.allow[direction]]
        return Side(
            deny=tuple(resolved(rule, own) for p, _ in enlisted for rule in p.deny[direction]),
            allow=(*(resolved(rule, own) for rule in allow), *self._baseline(namespace, direction)),
            isolated=any(p.enforced for p in speaking) or (denies and not self._settings.audit_everything),
            isolated_with_audit=bool(speaking) or denies,
            guard=tuple(self._guard(direction)),
        )

    def _guard(self, direction: Direction) -> Iterator[LoweredRule]:
        """A task does not read who talks to whom unless a rule allows it (S3)."""
        settings = self._settings
        if direction is Direction.EGRESS and settings.metrics_port:
            terms = tuple(self._metrics_terms())
            yield LoweredRule(AGENT_METRICS, enforced=not settings.audit_everything, terms=terms)

    def _metrics_terms(self) -> Iterator[Term]:
        at = PortMatch(int(IpProtocol.TCP), self._settings.metrics_port)
        return self._lowering.entity(Entity.NODE, (at,), Direction.EGRESS)

    def _baseline(self, namespace: Namespace, direction: Direction) -> Iterator[LoweredRule]:
        """What a task needs to be a task (P6): destinations, so egress only."""
        if direction is Direction.INGRESS:
            return
        entities = self._settings.baseline if namespace.baseline is None else namespace.baseline
        for entity in entities:
            terms = tuple(self._lowering.entity(entity, None, direction))
            yield LoweredRule(baseline_ref(entity.value), enforced=True, terms=terms)
