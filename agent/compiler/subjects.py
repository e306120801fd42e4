"""From an endpoint to the content of its ruleset: which policies select it, and what they come to together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from agent.compiler.atoms import AtomTable
from agent.compiler.layers import Layer, LoweredRule, Side
from agent.compiler.native import NativeSubjects
from agent.compiler.ownports import OwnPorts, PortName, names_of, own_ports, resolved
from agent.compiler.peerpods import MOST_ANSWERS
from agent.compiler.rulesets import Content
from agent.compiler.terms import Lowering, Term
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Attestation
from agent.model.policy import DefaultPosture, Entity, Policy, PortMatch, Posture, Rule, RuleRef
from agent.model.protocol import IpProtocol
from agent.model.verdict import Direction
from agent.model.want import Sockets
from agent.semantics.builtin import AGENT_METRICS, baseline_ref
from agent.semantics.selecting import selects


@dataclass(frozen=True, slots=True)
class LoweredPolicy:
    """A policy whose rules are terms. `own_ports`: names that only the endpoint's own pod can resolve."""

    policy: Policy
    enforced: bool
    allow: tuple[tuple[LoweredRule, ...], tuple[LoweredRule, ...]]
    deny: tuple[tuple[LoweredRule, ...], tuple[LoweredRule, ...]]
    own_ports: frozenset[PortName]

    def terms(self) -> Iterator[Term]:
        return (t for group in (*self.allow, *self.deny) for rule in group for t in rule.terms)


def lower(policy: Policy, lowering: Lowering) -> LoweredPolicy:
    enforced = policy.posture is Posture.ENFORCE and not lowering.settings.audit_everything

    def lowered(
        rules: tuple[Rule, ...] | None, direction: Direction, *, denies: bool = False
    ) -> tuple[LoweredRule, ...]:
        return tuple(
            LoweredRule(RuleRef(policy.ref, rule.name), enforced, lowering.rule(rule, denies=denies))
            for rule in rules or ()
            if rule.direction is direction
        )

    result = LoweredPolicy(
        policy,
        enforced,
        allow=(lowered(policy.egress, Direction.EGRESS), lowered(policy.ingress, Direction.INGRESS)),
        deny=(
            lowered(policy.deny, Direction.EGRESS, denies=True),
            lowered(policy.deny, Direction.INGRESS, denies=True),
        ),
        own_ports=frozenset(),
    )
    return LoweredPolicy(policy, enforced, result.allow, result.deny, names_of(result.terms()))


class Subjects:
    """Policies by the namespace they stand in, and the contents that came out of them so far."""

    def __init__(self, cluster: Cluster, table: AtomTable) -> None:
        self._settings, self._namespaces, self._table = cluster.settings, cluster.namespaces, table
        self._lowering = Lowering(table, cluster.settings)
        self.policies = [lower(policy, self._lowering) for _, policy in sorted(cluster.policies.items())]
        self.native = NativeSubjects(cluster, self._lowering)
        self._by_namespace: dict[str, list[int]] = {}
        self._label_keys: set[str] = set()
        for i, lowered in enumerate(self.policies):
            self._by_namespace.setdefault(lowered.policy.ref.namespace, []).append(i)
            selector = lowered.policy.subject.pod_selector
            self._label_keys.update(r.key for r in (selector.requirements if selector else ()))
        self._selections: dict[Hashable, tuple[tuple[int, bool], ...]] = {}
        self._contents: dict[Hashable, Content] = {}

    def terms(self) -> Iterator[Term]:
        """Everything that policies and any baseline ask about."""
        for lowered in self.policies:
            yield from lowered.terms()
        yield from self.native.terms()
        for entity in Entity:
            yield from self._lowering.entity(entity, None, Direction.EGRESS)
        if self._settings.metrics_port:
            yield from self._metrics_terms()

    def content(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> Content:
        """Of a pod in a managed namespace, whose claim is worth `attestation`."""
        found, native = self._selected(pod, namespace), self.native.selected(pod)
        selected = tuple(i for i, _ in found)
        entitled = tuple(sure and self.policies[i].policy.attestation <= attestation for i, sure in found)
        names = {name for i in selected for name in self.policies[i].own_ports}
        names.update(name for i in native for name in self.native.policies[i].own_ports)
        own = own_ports(pod, names)
        key = (selected, entitled, native, own, namespace.default_posture, namespace.baseline)
        known = self._contents.get(key)
        if known is None:
            enlisted = [(self.policies[i], may) for i, may in zip(selected, entitled, strict=True)]
            known = self._contents[key] = self._content(enlisted, native, own, namespace)
        return known

    def _selected(self, pod: Pod, namespace: Namespace) -> tuple[tuple[int, bool], ...]:
        """Policies, and whether they select the pod for sure (I1)."""
        labels = tuple(pair for pair in pod.claim.labels if pair[0] in self._label_keys)
        key = (pod.claim.identity, pod.namespace, labels)
        known = self._selections.get(key)
        if known is None:
            near = [*self._by_namespace.get("", ()), *self._by_namespace.get(pod.namespace, ())]
            every = dict(pod.claim.labels)
            if len(self._selections) >= MOST_ANSWERS:
                self._selections.clear()
            policies = ((i, self.policies[i].policy) for i in near)
            known = tuple(
                (i, selects(policy, pod, every, namespace, perhaps=False))
                for i, policy in policies
                if selects(policy, pod, every, namespace)
            )
            self._selections[key] = known
        return known

    def _content(
        self, enlisted: list[tuple[LoweredPolicy, bool]], native: tuple[int, ...], own: OwnPorts, namespace: Namespace
    ) -> Content:
        egress, ingress = (self._side(enlisted, own, namespace, direction) for direction in Direction)
        granted = any(may and p.enforced and p.policy.raw_sockets for p, may in enlisted)
        sockets = Sockets(raw=granted, audit=self._settings.audit_everything)
        layers = (Layer(egress, ingress), *self.native.layers(native, own))
        return Content(layers, self._table, sockets)

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
        """A task does not read who talks to whom unless a rule says so (S3)."""
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
