"""From an endpoint to the content of its ruleset: what the policies of every kind that select it come to together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator

from agent.compiler.atoms import AtomTable
from agent.compiler.native import NativePolicies
from agent.compiler.own import OwnPolicies
from agent.compiler.ownports import OwnPorts, own_ports
from agent.compiler.policy_layer import LayerOf, PolicyLayer
from agent.compiler.rulesets import RulesetContent
from agent.compiler.terms import Lowering, Term
from agent.memo import Memo
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Attestation
from agent.model.policy import DefaultPosture, Entity, PolicyRef
from agent.model.want import Sockets

LAYERS: tuple[LayerOf, ...] = (OwnPolicies, NativePolicies)
"""Kinds of policies, in the order in which they are asked."""
TERMS_HERE = "terms of rules, times the rulesets here"
Key = tuple[tuple[Hashable, ...], OwnPorts, DefaultPosture | None, tuple[Entity, ...] | None]
"""What a content follows from: the policies that select a pod, its ports, and the defaults of its namespace."""
Selecting = tuple[Pod, Namespace, Attestation]


class Subjects:
    """The policies of one snapshot, and the contents that came out of them so far."""

    def __init__(self, cluster: Cluster, table: AtomTable, layers: tuple[LayerOf, ...] = LAYERS) -> None:
        lowering = Lowering(table, cluster.settings)
        self._table, self._audit = table, cluster.settings.audit_everything
        self._layers = [layer(cluster, lowering) for layer in layers]
        self._refs: Memo[tuple[Hashable, ...], tuple[PolicyRef, ...]] = Memo()
        self._contents: dict[Key, RulesetContent] = {}
        self._spent = 0

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
        return (ref for layer, selected in self._chosen(key) for ref in layer.refs(selected))

    def cost(self, pods: Iterable[Selecting]) -> int:
        """Terms of all contents that there are or would be with these pods."""
        keys = {self._key(*each) for each in pods} - self._contents.keys()
        return self._spent + sum(self._weight(key) for key in keys)

    def needs(self, pods: Iterable[Selecting]) -> Counter[PolicyRef]:
        """By policy: terms in the contents of these pods. Others are forgotten."""
        keys = {self._key(*each) for each in pods}
        self._contents = {key: content for key, content in self._contents.items() if key in keys}
        self._spent = sum(self._weight(key) for key in self._contents)
        found = Counter[PolicyRef]()
        for selected, *_ in keys:
            for ref, terms in self._terms_of(selected):
                found[ref] += terms
        return found

    def content(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> RulesetContent:
        """Of a pod in a managed namespace, whose claim is worth `attestation`."""
        key = self._key(pod, namespace, attestation)
        known = self._contents.get(key)
        if known is None:
            selected, own, *_ = key
            chosen = list(self._chosen(selected))
            layers = tuple(made for layer, each in chosen for made in layer.layers(each, own, namespace))
            raw = any(layer.grants_raw_sockets(each) for layer, each in chosen)
            known = self._contents[key] = RulesetContent(layers, self._table, Sockets(raw=raw, audit=self._audit))
            self._spent += self._weight(key)
        return known

    def _key(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> Key:
        selected = tuple(layer.select(pod, namespace, attestation) for layer in self._layers)
        own = own_ports(pod, {name for layer, each in self._chosen(selected) for name in layer.own_ports(each)})
        return selected, own, namespace.default_posture, namespace.baseline

    def _chosen(self, selected: tuple[Hashable, ...]) -> Iterator[tuple[PolicyLayer, Hashable]]:
        return zip(self._layers, selected, strict=True)

    def _terms_of(self, selected: tuple[Hashable, ...]) -> Iterator[tuple[PolicyRef, int]]:
        return (each for layer, found in self._chosen(selected) for each in layer.terms_of(found))

    def _weight(self, key: Key) -> int:
        return sum(terms for _, terms in self._terms_of(key[0]))
