"""Named ports of the endpoint's own pod, which ingress rules mean."""

from __future__ import annotations

from collections.abc import Iterable

from agent.compiler.layers import LoweredRule
from agent.compiler.terms import AtOwnPort, AtPorts, Term
from agent.model.cluster import Pod
from agent.model.want import port_index

PortName = tuple[int, str]
"""(protocol, name)"""

OwnPorts = tuple[tuple[int, str, int], ...]
"""(protocol, name, number)"""


def names_of(terms: Iterable[Term]) -> frozenset[PortName]:
    """Names that only the endpoint's own pod can resolve."""
    return frozenset((t.protocol, t.name) for t in terms if isinstance(t, AtOwnPort))


def own_ports(pod: Pod, names: set[PortName]) -> OwnPorts:
    return tuple(sorted((p.protocol, p.name, p.port) for p in pod.ports if (p.protocol, p.name) in names))


def resolved(rule: LoweredRule, own: OwnPorts) -> LoweredRule:
    """The rule with the endpoint's own named ports as numbers; a name that the pod does not have matches nothing."""
    if not any(isinstance(term, AtOwnPort) for term in rule.terms):
        return rule
    terms: list[Term] = []
    for term in rule.terms:
        if isinstance(term, AtOwnPort):
            wanted = (term.protocol, term.name)
            numbers = sorted(
                {port_index(protocol, number) for protocol, name, number in own if (protocol, name) == wanted}
            )
            if numbers:
                terms.append(AtPorts(term.atom, tuple((n, n) for n in numbers)))
        else:
            terms.append(term)
    return LoweredRule(rule.ref, rule.enforced, tuple(terms), rule.action)
