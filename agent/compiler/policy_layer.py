"""What the compiler asks of all policies of one kind (P1). A kind is one file that answers this, and a row in LAYERS
(subjects.py); its twin for the judge is agent/judge/layer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Protocol

from agent.compiler.layers import Layer
from agent.compiler.ownports import OwnPorts, PortName
from agent.compiler.terms import Lowering, Term
from agent.model.cluster import Cluster, Namespace, Pod
from agent.model.identity import Attestation
from agent.model.policy import PolicyRef

Selected = Any
"""Hashable: which policies select a pod, and as what. Pods for which it is equal get equal layers."""


class PolicyLayer(Protocol):
    """Made anew for each snapshot in which a policy of any kind has changed."""

    @property
    def judges_backends(self) -> bool:
        """Does a service's address mean the endpoints behind it to any of these policies (P13)?"""

    def terms(self) -> Iterator[Term]:
        """Everything that the policies ask about addresses."""

    def select(self, pod: Pod, namespace: Namespace, attestation: Attestation) -> Hashable:
        """The policies that select a pod, whose claim is worth `attestation`."""

    def refs(self, selected: Selected) -> tuple[PolicyRef, ...]:
        """These policies' names, for reports."""

    def terms_of(self, selected: Selected) -> Iterable[tuple[PolicyRef, int]]:
        """By policy that selects a pod: how many terms it brings to the pod's ruleset, an upper bound."""

    def own_ports(self, selected: Selected) -> Iterable[PortName]:
        """Names of ports in these policies that only the pod itself can resolve."""

    def layers(self, selected: Selected, own: OwnPorts, namespace: Namespace) -> tuple[Layer, ...]:
        """What these policies come to, in the order in which they are asked; nothing where none selects the pod."""

    def grants_raw_sockets(self, selected: Selected) -> bool:
        """Does any of these policies?"""


LayerOf = Callable[[Cluster, Lowering], PolicyLayer]
