"""What is valid and may still not mean what its author thinks (I7). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from agent.cli.hashed import hashed_ids
from agent.cli.lookups import missing
from agent.cli.pitfalls import is_bound, pitfalls
from agent.compiler.unmatched import unmatched_services
from agent.model.cluster import Cluster, Namespace
from agent.model.policy import DefaultPosture, Policy, PolicyRef, Posture, TaskPeer
from agent.model.verdict import Direction
from agent.parse.objects import ObjectName


@dataclass(frozen=True, slots=True)
class Warning_:
    """A sentence about one policy, and the field that it is about."""

    policy: PolicyRef
    field: str
    text: str


def advise(cluster: Cluster, written: Collection[ObjectName]) -> Iterator[Warning_]:
    """`written`: the objects of the files, without what only follows from them."""
    namespaces = {name.name for name in written if name.kind == "Namespace"}
    for ref, policy in sorted(cluster.policies.items()):
        yield from _no_floor(cluster, policy)
        yield from _claimed_peers(cluster, policy)
        told = ref.namespace in namespaces if ref.namespace else bool(namespaces)
        if told and not any(namespace.managed for namespace in _namespaces(cluster, policy)):
            where = f"namespace {ref.namespace}" if ref.namespace else "no namespace that it selects"
            state = "is not managed" if ref.namespace else "is managed"
            yield Warning_(ref, "metadata.namespace", f"selects nothing: {where} {state}")
    yield from (Warning_(*each) for each in (*hashed_ids(cluster), *pitfalls(cluster), *missing(cluster, written)))
    if cluster.services:  # files without any service are not about those of the cluster
        yield from (Warning_(each.policy, each.field, each.text) for each in unmatched_services(cluster))


def _no_floor(cluster: Cluster, policy: Policy) -> Iterator[Warning_]:
    """Who claims another id is not selected: something that a pod cannot choose must stand below."""
    if not _by_claims(policy):
        return
    fields = [n for n, v in (("dagIds", policy.subject.dag_ids), ("taskIds", policy.subject.task_ids)) if v]
    for namespace in _namespaces(cluster, policy) or (Namespace(policy.ref.namespace),):
        open_ = [d.name.lower() for d in _spoken(policy) if not _has_floor(cluster, policy, namespace, d)]
        if open_:
            yield Warning_(
                policy.ref,
                f"spec.subject.{fields[0]}",
                f"a pod that claims another id is not selected, and nothing below isolates its {' and '.join(open_)}"
                f"{f' in namespace {namespace.name}' if namespace.name else ''}: add a policy on service accounts, "
                "or default-posture deny",
            )


def _by_claims(policy: Policy) -> bool:
    return bool(policy.subject.dag_ids or policy.subject.task_ids)


def _spoken(policy: Policy) -> list[Direction]:
    denied = {rule.direction for rule in policy.deny}
    return [d for d in Direction if policy.speaks_about(d) is not None or d in denied]


def _has_floor(cluster: Cluster, policy: Policy, namespace: Namespace, direction: Direction) -> bool:
    default = namespace.default_posture or cluster.settings.default_posture
    return default is DefaultPosture.DENY or any(
        _is_floor(other, policy, namespace, direction) for other in cluster.policies.values()
    )


def _is_floor(other: Policy, policy: Policy, namespace: Namespace, direction: Direction) -> bool:
    """An enforced policy that isolates what `policy` selects by what Kubernetes vouches for alone."""
    subject, accounts = other.subject, other.subject.service_accounts
    wanted = policy.subject.service_accounts
    return (
        other.ref.namespace in ("", namespace.name)
        and other.posture is Posture.ENFORCE
        and other.speaks_about(direction) is not None
        and not (subject.dag_ids or subject.task_ids or subject.kinds or subject.pod_selector)
        and (subject.namespace_selector is None or subject.namespace_selector.matches(dict(namespace.labels)))
        and (not accounts or not wanted or set(wanted) <= set(accounts))
    )


def _namespaces(cluster: Cluster, policy: Policy) -> tuple[Namespace, ...]:
    if policy.ref.namespace:
        found = cluster.namespaces.get(policy.ref.namespace)
        return (found,) if found is not None else ()
    selector = policy.subject.namespace_selector
    return tuple(
        namespace
        for _, namespace in sorted(cluster.namespaces.items())
        if namespace.managed and (selector is None or selector.matches(dict(namespace.labels)))
    )


def _claimed_peers(cluster: Cluster, policy: Policy) -> Iterator[Warning_]:
    for key, rules in (("egress", policy.egress), ("ingress", policy.ingress)):
        for number, rule in enumerate(rules or ()):
            tasks = (peer for peer in rule.peers or () if isinstance(peer, TaskPeer))
            if any(not is_bound(cluster, policy, peer) for peer in tasks):
                yield Warning_(
                    policy.ref,
                    f"spec.{key}[{number}]",
                    "`tasks` believes what pods claim, and no enforced exclusive binding keeps these ids: any pod of "
                    "the namespace can claim them; name `pods` or a `service` where it matters",
                )
