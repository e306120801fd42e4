"""From an endpoint to the content of its ruleset: what the policies of every kind that select it come to together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from agent.compiler.atoms import AtomTable
from agent.compiler.native import NativePolicies
from agent.compiler.own import OwnPolicies
from agent.compiler.ownports import own_ports
from agent.compiler.policy_layer import LayerOf
from agent.compiler.rulesets import RulesetContent
from agent.compiler.terms import Lowering, Term
from agent.memo import Memo
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Attestation
from agent.model.policy import PolicyRef
from agent.model.want import Sockets

LAYERS: tuple[LayerOf, ...] = (OwnPolicies, NativePolicies)
"""Kinds of policies, in the order in which they are asked."""


class Subjects:
    """The policies of one snapshot, and the contents that came out of them so far."""

    def __init__(self, cluster: Cluster, table: AtomTable, layers: tuple[LayerOf, ...] = LAYERS) -> None:
        lowering = Lowering(table, cluster.settings)
        self._table, self._audit = table, cluster.settings.audit_everything
        self._layers = [layer(cluster, lowering) for layer in layers]
        self._contents: dict[Hashable, RulesetContent] = {}
        self._refs: Memo[tuple[Hashable, ...], tuple[PolicyRef, ...]] = Memo()

    @property
    def judges_backends(self) -> bool:
        return any(layer.judges_backends for layer in self._layers)

    def terms(self) -> Iterator[Term]:
        """Everything that policies and any baseline ask about."""
        return (term for layer in self._layers for term in layer.terms())

    def selecting(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> tuple[PolicyRef, ...]:
        """The policies that select a pod, of every kind."""
        key = tuple(layer.select(pod, namespace, attestation) for layer in self._layers)
        return self._refs.get(key, lambda: tuple(self._refs_of(key)))

    def _refs_of(self, key: tuple[Hashable, ...]) -> Iterator[PolicyRef]:
        return (ref for layer, selected in zip(self._layers, key, strict=True) for ref in layer.refs(selected))

    def content(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> RulesetContent:
        """Of a pod in a managed namespace, whose claim is worth `attestation`."""
        selected = tuple(layer.select(pod, namespace, attestation) for layer in self._layers)
        chosen = list(zip(self._layers, selected, strict=True))
        own = own_ports(pod, {name for layer, each in chosen for name in layer.own_ports(each)})
        key = (selected, own, namespace.default_posture, namespace.baseline)
        known = self._contents.get(key)
        if known is None:
            layers = tuple(made for layer, each in chosen for made in layer.layers(each, own, namespace))
            raw = any(layer.grants_raw_sockets(each) for layer, each in chosen)
            known = self._contents[key] = RulesetContent(layers, self._table, Sockets(raw=raw, audit=self._audit))
        return known
