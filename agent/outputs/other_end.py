"""Who judges a connection besides the pod that is asked about: its peer, where that is managed too (P14). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent.judge.address import Facts, plain
from agent.judge.judge import Decision, judge
from agent.model.cluster import Address, Cluster, Pod
from agent.model.verdict import Direction


@dataclass(frozen=True, slots=True)
class OtherEnd:
    """A managed pod at the other end, and what it decides. `address`: how it sees the pod that is asked about; None:
    no address of that is known, nor a range of pods, so that nothing can be decided.
    """

    pod: Pod
    direction: Direction
    port: int
    address: Address | None = None
    decision: Decision | None = None


def other_ends(  # noqa: PLR0917  the order of judge()
    cluster: Cluster, pod: Pod, direction: Direction, address: Address, protocol: int, port: int
) -> Iterator[OtherEnd]:
    """One for each managed pod that may be behind the address; `port` as for judge()."""
    opposite = Direction.INGRESS if direction is Direction.EGRESS else Direction.EGRESS
    behind = [(plain(address), port)]
    if direction is Direction.EGRESS:
        behind += _served_by(cluster, plain(address), protocol, port)
    for where, number in dict.fromkeys(behind):
        peer, own = Facts(cluster, where).pod, _own(cluster, pod, where.version)
        namespace = cluster.namespaces.get(peer.namespace) if peer is not None else None
        if peer is None or peer.uid == pod.uid or namespace is None or not namespace.managed:
            continue
        if own is None:
            yield OtherEnd(peer, opposite, number)
            continue
        known = replace(cluster, pods=cluster.pods.set(pod.uid, replace(pod, addresses=(*pod.addresses, own))))
        yield OtherEnd(peer, opposite, number, own, judge(known, peer, opposite, own, protocol, number))


def _own(cluster: Cluster, pod: Pod, version: int) -> Address | None:
    """The pod's address; of one that is not there yet, the last of the pods' ranges. None where nothing is known."""
    found = next((address for address in pod.addresses if address.version == version), None)
    if found is not None:
        return found
    ranges = [*cluster.settings.pod_ranges, *(r for node in cluster.nodes.values() for r in node.pod_ranges)]
    networks = (network for network in ranges if network.version == version and network.num_addresses > 2)
    return next((network[-2] for network in networks), None)


def _served_by(cluster: Cluster, address: Address, protocol: int, port: int) -> Iterator[tuple[Address, int]]:
    """Where a connection to a service's address ends: ready endpoints and their target ports."""
    for service in cluster.services.values():
        ports = [p for p in service.ports if (p.protocol, p.port) == (protocol, port)]
        if address not in (*service.addresses, *service.external) or not ports:
            continue
        for piece in cluster.slices.values():
            if (piece.namespace, piece.service) == (service.namespace, service.name):
                names = {(p.name, p.protocol) for p in ports}
                targets = [t.port for t in piece.ports if (t.name, t.protocol) in names]
                yield from ((end, n) for n in targets for end in piece.addresses if end not in piece.waiting)
