"""The layer of NetworkPolicy (P1): which objects select a pod by its live labels, and what they come to together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.compiler.layers import Layer, LayerKind, LoweredRule, Side, deny_allow_isolate
from agent.compiler.ownports import OwnPorts, PortName, names_of, resolved
from agent.compiler.terms import Lowering, Term, weight_of
from agent.memo import Memo
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Attestation
from agent.model.network_policy import NetworkPolicy
from agent.model.policy import PolicyRef, RuleRef
from agent.model.verdict import Direction


@dataclass(frozen=True, slots=True)
class LoweredNative:
    """A NetworkPolicy whose rules are terms, by direction."""

    policy: NetworkPolicy
    rules: tuple[tuple[LoweredRule, ...], tuple[LoweredRule, ...]]
    own_ports: frozenset[PortName]
    weight: int

    def terms(self) -> Iterator[Term]:
        return (term for group in self.rules for rule in group for term in rule.terms)


NETWORK_POLICY = LayerKind("NetworkPolicy", deny_allow_isolate, reaches_metadata=True, judges_backends=True)
"""P5, P6 and P11 do not hold for it (P2)."""


class NativePolicies:
    """NetworkPolicies by namespace; none without `--network-policy`."""

    def __init__(self, cluster: Cluster, lowering: Lowering) -> None:
        self._enforced = not cluster.settings.audit_everything
        given = sorted(cluster.network_policies.items()) if cluster.settings.network_policy else []
        self.policies = [self._lower(policy, lowering) for _, policy in given]
        self._by_namespace: dict[str, list[int]] = {}
        self._label_keys: set[str] = set()
        for i, lowered in enumerate(self.policies):
            self._by_namespace.setdefault(lowered.policy.ref.namespace, []).append(i)
            self._label_keys.update(r.key for r in lowered.policy.pod_selector.requirements)
        self._selections: Memo[Hashable, tuple[int, ...]] = Memo()

    @property
    def judges_backends(self) -> bool:
        """Where any of them allows egress."""
        return any(lowered.policy.egress for lowered in self.policies)

    def terms(self) -> Iterator[Term]:
        for lowered in self.policies:
            yield from lowered.terms()

    def select(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> tuple[int, ...]:  # noqa: ARG002
        """By live labels. A hostNetwork pod's traffic is the node's: none selects it."""
        near = self._by_namespace.get(pod.namespace, ())
        if pod.host_network or not near:
            return ()
        key = (pod.namespace, tuple(pair for pair in pod.labels if pair[0] in self._label_keys))
        return self._selections.get(key, lambda: tuple(self._matching(near, dict(pod.labels))))

    def _matching(self, near: Iterable[int], labels: Mapping[str, str]) -> Iterator[int]:
        return (i for i in near if self.policies[i].policy.pod_selector.matches(labels))

    def refs(self, selected: tuple[int, ...]) -> tuple[PolicyRef, ...]:
        return tuple(self.policies[i].policy.ref for i in selected)

    def terms_of(self, selected: tuple[int, ...]) -> Iterator[tuple[PolicyRef, int]]:
        return ((self.policies[i].policy.ref, self.policies[i].weight) for i in selected)

    def own_ports(self, selected: tuple[int, ...]) -> Iterator[PortName]:
        return (name for i in selected for name in self.policies[i].own_ports)

    def grants_raw_sockets(self, selected: tuple[int, ...]) -> bool:  # noqa: ARG002
        """It cannot."""
        return False

    def layers(self, selected: tuple[int, ...], own: OwnPorts, namespace: Namespace) -> tuple[Layer, ...]:  # noqa: ARG002
        """One layer, or none where nothing selects the pod."""
        if not selected:
            return ()
        egress, ingress = (self._side([self.policies[i] for i in selected], own, each) for each in Direction)
        return (Layer(NETWORK_POLICY, egress, ingress),)

    def _side(self, enlisted: list[LoweredNative], own: OwnPorts, direction: Direction) -> Side:
        speaks = any(each.policy.speaks_about(direction) is not None for each in enlisted)
        return Side(
            allow=tuple(resolved(rule, own) for each in enlisted for rule in each.rules[direction]),
            isolated=speaks and self._enforced,
            isolated_with_audit=speaks,
        )

    def _lower(self, policy: NetworkPolicy, lowering: Lowering) -> LoweredNative:
        egress, ingress = (
            tuple(
                LoweredRule(RuleRef(policy.ref, rule.name), self._enforced, lowering.native_rule(rule))
                for rule in policy.speaks_about(direction) or ()
            )
            for direction in Direction
        )
        terms = [term for rule in (*egress, *ingress) for term in rule.terms]
        return LoweredNative(policy, (egress, ingress), names_of(terms), weight_of(terms))
