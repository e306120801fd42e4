"""Random clusters with NetworkPolicies and TaskIdentityBindings: those of clusters.py, and half of them such that
services have pods behind them and little but NetworkPolicies decides."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from immutables import Map

from agent.model.binding import ExclusiveScope, TaskIdentityBinding
from agent.model.cluster import Cluster, ContainerPort, EndpointSlice, Service, ServicePort
from agent.model.network_policy import LivePodPeer, NetworkPolicy, NetworkPolicyRule
from agent.model.policy import CidrPeer, DefaultPosture, PolicyRef, Posture
from agent.model.verdict import Direction
from tests.unit import clusters
from tests.unit.clusters import ADDRESSES, NAMES, NAMESPACES, POD_ADDRESSES, PORTS, SERVICES

REFS = tuple(PolicyRef(ns, "NetworkPolicy", name) for ns in NAMESPACES for name in ("n", "o"))
BINDINGS = ("b0", "b1", "b2")
SERVICE_ADDRESSES = tuple(a for a in ADDRESSES if str(a).startswith(("10.96", "8.8", "fd00")))


def peer(r: Random) -> CidrPeer | LivePodPeer:
    if r.random() < 0.4:
        return clusters.cidr(r)
    where = r.choice((None, *NAMESPACES))
    return LivePodPeer(where, None if where else clusters.selector(r), clusters.selector(r))


def rule(r: Random, name: str, direction: Direction) -> NetworkPolicyRule:
    peers = None if r.random() < 0.25 else tuple(peer(r) for _ in range(r.randint(1, 3)))
    found = clusters.port_matches(r)
    ports = None if found is None else tuple(p for p in found if p.protocol in (6, 17, 132)) or None
    return NetworkPolicyRule(name, direction, peers, ports)


def rules(r: Random, key: str, direction: Direction) -> tuple[NetworkPolicyRule, ...] | None:
    if r.random() < 0.35:
        return None
    return tuple(rule(r, f"{key}[{i}]", direction) for i in range(r.choice((0, 1, 2, 3))))


def network_policy(r: Random, ref: PolicyRef) -> NetworkPolicy:
    egress, ingress = rules(r, "egress", Direction.EGRESS), rules(r, "ingress", Direction.INGRESS)
    return NetworkPolicy(ref, clusters.selector(r), egress=egress, ingress=ingress)


def binding(r: Random, name: str) -> TaskIdentityBinding:
    return TaskIdentityBinding(
        name,
        r.choice(NAMESPACES),
        r.choice((("default",), ("etl",), ("default", "etl"))),
        r.choice((("finance_*",), ("finance_daily",), ("_private",), ("*",))),
        r.choice(((), (), ("load",))),
        exclusive=r.random() < 0.3,
        exclusive_scope=r.choice(list(ExclusiveScope)),
        posture=r.choice((Posture.ENFORCE, Posture.AUDIT, Posture.AUDIT)),
    )


def cluster(r: Random) -> Cluster:
    found = clusters.cluster(r)
    found = replace(
        found,
        settings=replace(found.settings, network_policy=r.random() < 0.8),
        network_policies=Map({ref: network_policy(r, ref) for ref in REFS if r.random() < 0.5}),
        bindings=Map({name: binding(r, name) for name in BINDINGS if r.random() < 0.4}),
    )
    return _served(r, found) if r.random() < 0.5 else found


def _served(r: Random, was: Cluster) -> Cluster:
    """Services with pods behind them; dagwall's own layer lets nearly everything pass."""
    return replace(
        was,
        services=Map({name: _service(r, name) for name in SERVICES}),
        slices=Map({name: _piece(r, name) for name in SERVICES}),
        policies=Map({ref: policy for ref, policy in was.policies.items() if r.random() < 0.2}),
        namespaces=Map({
            name: replace(ns, managed=True, default_posture=DefaultPosture.OBSERVE)
            for name, ns in was.namespaces.items()
        }),
        pods=Map({
            uid: replace(pod, node="here", addresses=pod.addresses or tuple(r.sample(POD_ADDRESSES, 1)))
            for uid, pod in was.pods.items()
        }),
    )  # fmt: skip


def _service(r: Random, name: tuple[str, str]) -> Service:
    ports = tuple(ServicePort(n, protocol, r.choice(PORTS[:4])) for n, protocol in zip(NAMES, (6, 17), strict=True))
    return Service(*name, addresses=tuple(r.sample(SERVICE_ADDRESSES, 2)), ports=ports)


def _piece(r: Random, name: tuple[str, str]) -> EndpointSlice:
    ports = tuple(ContainerPort(n, protocol, r.choice(PORTS[:4])) for n, protocol in zip(NAMES, (6, 17), strict=True))
    return EndpointSlice(*name, name[1], tuple(r.sample(POD_ADDRESSES, r.randint(1, 3))), ports)


def changed(r: Random, was: Cluster) -> Cluster:
    """One event; live labels, NetworkPolicies and bindings are among them."""
    kind, uids = r.random(), sorted(was.pods)
    if kind < 0.2 and uids:
        uid = r.choice(uids)
        return replace(was, pods=was.pods.set(uid, replace(was.pods[uid], labels=clusters.labels(r))))
    if kind < 0.3:
        name = r.choice(BINDINGS)
        gone = name in was.bindings and r.random() < 0.4
        return replace(was, bindings=was.bindings.delete(name) if gone else was.bindings.set(name, binding(r, name)))
    if kind < 0.45:
        ref, known = r.choice(REFS), was.network_policies
        gone = ref in known and r.random() < 0.3
        return replace(was, network_policies=known.delete(ref) if gone else known.set(ref, network_policy(r, ref)))
    if kind < 0.6:
        name = r.choice(SERVICES)
        if r.random() < 0.5:
            return replace(was, slices=was.slices.set(name, _piece(r, name)))
        return replace(was, services=was.services.set(name, _service(r, name)))
    after = clusters.changed(r, was)
    return replace(after, settings=replace(after.settings, network_policy=r.random() < 0.9))
