"""The requests about Leases: this node's own with its report, and the one that says who writes statuses."""

from __future__ import annotations

from agent.errors import ApiError
from agent.outputs.kube.lease import (
    ELECTION,
    NODE_LABEL,
    NODE_RENEW_SECONDS,
    Election,
    Lease,
    living,
    node_lease,
    node_lease_name,
    paced,
)
from agent.outputs.kube.node_report import NodeReport
from agent.outputs.kube.own_node import Api, OwnNode
from agent.outputs.kube.policy_status import CONDITION_SECONDS


class Leases:
    """The requests about Leases of one agent."""

    def __init__(self, api: Api, node: OwnNode, namespace: str) -> None:
        self._api, self._own_node, self._node = api, node, node.name
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self.election = Election(node.name)
        self._own: Lease | None = None
        self._reported: NodeReport | None = None
        self._reported_at = float("-inf")

    def report(self, report: NodeReport, now: float, wall: float, nodes: int = 1) -> bool:
        """Changes of generations soon, of numbers with the renewal. Whether the server was asked."""
        wait = paced(CONDITION_SECONDS, nodes) if report.differs_in_conditions(self._reported) else NODE_RENEW_SECONDS
        if now < self._reported_at + min(wait, NODE_RENEW_SECONDS):
            return False
        name = node_lease_name(self._node)
        if self._own is None:
            self._own = self._get(name)
        try:
            self._own = self._put(node_lease(self._node, self._own_node.uid(), report, self._own, wall))
        except ApiError:
            self._own = None  # read it anew
            raise
        self._reported, self._reported_at = report, now
        return True

    def elect(self, now: float, wall: float, nodes: int = 1) -> bool:
        """Whether the server was asked. `nodes`: how many agents there may be."""
        if not self.election.due(now):
            return False
        claim = self.election.claim(self._get(ELECTION), now, wall)
        if claim is None:
            self.election.answered(ours=False, asked_at=now, nodes=nodes)
            return True
        try:
            self._put(claim)
        except ApiError as exc:
            if exc.status != 409:
                raise
            self.election.answered(ours=False, asked_at=now, nodes=nodes)
        else:
            self.election.answered(ours=True, asked_at=now, nodes=nodes)
        return True

    def resign(self) -> bool:
        lease = self._get(ELECTION)
        if lease is not None and lease["spec"].get("holderIdentity") == self._node:
            self._put({**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        return True

    def reports(self, wall: float) -> dict[str, NodeReport]:
        """From the server's cache: a moment old is new enough."""
        found = self._api.get(self._path, labelSelector=f"{NODE_LABEL}=node", resourceVersion="0")
        return living(found.get("items") or (), wall)

    def _get(self, name: str) -> Lease | None:
        try:
            return self._api.get(f"{self._path}/{name}")
        except ApiError as exc:
            if exc.status == 404:
                return None
            raise

    def _put(self, lease: Lease) -> Lease:
        """Create what has no resourceVersion; replace what has one, if it is still that one."""
        metadata = lease["metadata"]
        if metadata.get("resourceVersion"):
            return self._api.send("PUT", f"{self._path}/{metadata['name']}", lease)
        return self._api.send("POST", self._path, lease)
