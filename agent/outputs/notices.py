"""What people should know of a node that is no reason not to be ready. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.compiler.unmatched import unmatched_services
from agent.model.classify import ClassifiedBy
from agent.model.cluster import Cluster
from agent.model.node_state import NodeState
from agent.model.report import EndpointRow
from agent.model.verdict import EndpointState

PINS_WERE_GONE = "an agent has enforced here since the boot, and its pins were gone: nothing was enforced meanwhile"
LINKS_WERE_LOST = "an agent had attached these programs, and somebody took them off: they judged nothing meanwhile"
_SHOWN = 10
_SOURCES = {"kubernetes": "the API server"}
"""What people call a source, where that is not its name."""
_WITHOUT_LSM = (
    "AF_PACKET and AF_XDP: frames skip the cgroup hooks; needs NET_RAW (listed below where a pod has it)",
    "AF_VSOCK: reaches the hypervisor; no cgroup hook sees it (seccompProfile RuntimeDefault refuses it)",
)
_ANYWHERE = (
    "sockets made outside of the pods' folders: by a container runtime whose socket is mounted, or a host daemon",
)


def notices(state: NodeState) -> tuple[str, ...]:
    return (*_of_source(state), *_of_start(state), *_of_cluster(state.cluster), *_of_endpoints(state))


def not_covered(*, holds_families: bool) -> tuple[str, ...]:
    """Ways out that no program sees on this node (S6): for everyone, whatever the policies say."""
    return _ANYWHERE if holds_families else _WITHOUT_LSM + _ANYWHERE


def _of_source(state: NodeState) -> Iterator[str]:
    if not state.cluster.complete:
        yield "the sources have not listed everything yet: nothing is taken away"
    stale, source = state.status.stale_seconds, state.facts.source
    if stale > 0:
        named = _SOURCES.get(source, f"source {source}")
        yield f"{named} has not answered for {stale:.0f} s: the last snapshot is enforced"
    yield from state.status.without_events


def _of_start(state: NodeState) -> Iterator[str]:
    facts = state.facts
    if facts.pins_were_gone:
        yield f"at this agent's start: {PINS_WERE_GONE}"
    yield from (f"at this agent's start, lost for good: {text}" for text in state.status.forgotten[:_SHOWN])
    if facts.links_were_lost:
        yield f"at this agent's start: {LINKS_WERE_LOST}: {', '.join(facts.links_were_lost)}"


def _of_cluster(cluster: Cluster) -> Iterator[str]:
    if cluster.settings.audit_everything:
        yield "--posture audit: every policy only reports what it would deny"
    natives = len(cluster.network_policies)
    if natives and not cluster.settings.network_policy:
        yield f"{natives} NetworkPolicies are not enforced by this agent: --network-policy is off"
    if not any(namespace.managed for namespace in cluster.namespaces.values()):
        yield "no namespace is managed: label one dagwall.io/managed=true, or use --managed-namespace"
    found = list(map(str, unmatched_services(cluster))) if cluster.complete else []  # P13
    yield from found[:_SHOWN]
    if len(found) > _SHOWN:
        yield f"and {len(found) - _SHOWN} more rules name a service that matches nothing"


def _of_endpoints(state: NodeState) -> Iterator[str]:
    rows = state.endpoints.values()
    unclassified = sum(row.classified_by is ClassifiedBy.FIRST_BOOT for row in rows)
    if unclassified:
        yield f"{unclassified} pods pass unclassified, because no managed namespace is known here yet"
    pending = [_named(row) for row in rows if row.state is EndpointState.PENDING]
    if pending:
        yield f"pending, so that nothing leaves: {_listed(pending)}"


def _named(row: EndpointRow) -> str:
    return f"{row.namespace}/{row.pod or row.uid}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:_SHOWN])
