"""The kinds of objects that dagwall reads: where each is in the API, how it is read, where it is in a snapshot.

One row each: parse_object, the store, the Kubernetes source, statuses and the rights of the agent's role follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount
from agent.model.identity import Claim
from agent.model.network_policy import NetworkPolicy
from agent.model.policy import Policy
from agent.parse.bindings import BINDING_KIND, parse_binding
from agent.parse.cluster_objects import parse_namespace, parse_node, parse_service_account
from agent.parse.fields import Field
from agent.parse.network_policies import NETWORK_POLICY, parse_network_policy
from agent.parse.pods import parse_pod
from agent.parse.policies import API_VERSION, CLUSTER_KIND, NAMESPACED_KIND, parse_policy
from agent.parse.services import parse_endpoint_slice, parse_service

Item = (
    Pod | Namespace | Service | EndpointSlice | ServiceAccount | Node | Policy | NetworkPolicy | TaskIdentityBinding
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the value of an object also depends on. `first_claim`: of the pod's uid at its first sight (I2)."""

    cluster: str = "default"
    managed_namespaces: frozenset[str] = frozenset()
    first_claim: Claim | None = None


class Watch(Enum):
    """When the kind is read from the API; manifests may hold it in any case."""

    ALWAYS = "always"
    OWN_NODE = "of this node; of the others where a policy selects pods"  # S2
    NETWORK_POLICY = "with --network-policy"
    FOR_REPORTS = "always; no verdict follows from it, so that enforcement does not wait for it"


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """`versions`: values of apiVersion that are read, the preferred first. `table`: the field of Cluster, `key`: what
    the value is called there. `ours`: a definition of dagwall's own, which a server may lack; the agent writes its
    status. `kept`: the last valid generation outlives the agent (P17)."""

    kind: str
    versions: tuple[str, ...]
    plural: str
    value: type
    parse: Callable[[Field, Reading], Item]
    table: str
    key: Callable[[Any], Any]
    namespaced: bool = True
    watch: Watch = Watch.ALWAYS
    ours: bool = False
    kept: bool = False

    @property
    def group(self) -> str:
        return self.versions[0].rpartition("/")[0]

    def rights(self) -> Iterator[tuple[str, str, str]]:
        """(API group, resource, verb) that the agent needs in every namespace."""
        yield from ((self.group, self.plural, verb) for verb in ("list", "watch"))
        if self.ours:
            yield self.group, f"{self.plural}/status", "patch"


def _own(kind: str, plural: str, *, namespaced: bool) -> ObjectKind:
    """A kind of policy of dagwall's."""
    return ObjectKind(
        kind, (API_VERSION,), plural, Policy, lambda root, _: parse_policy(root), "policies", lambda each: each.ref,
        namespaced=namespaced, ours=True, kept=True,
    )  # fmt: skip


OBJECT_KINDS = (
    ObjectKind(
        "Pod", ("v1",), "pods", Pod,
        lambda root, how: parse_pod(root, cluster=how.cluster, first_claim=how.first_claim),
        "pods", lambda pod: pod.uid, watch=Watch.OWN_NODE,
    ),
    ObjectKind(
        "Namespace", ("v1",), "namespaces", Namespace,
        lambda root, how: parse_namespace(root, how.managed_namespaces),
        "namespaces", lambda namespace: namespace.name, namespaced=False, kept=True,
    ),
    ObjectKind(
        "Service", ("v1",), "services", Service, lambda root, _: parse_service(root),
        "services", lambda service: (service.namespace, service.name),
    ),
    ObjectKind(
        "EndpointSlice", ("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"), "endpointslices", EndpointSlice,
        lambda root, _: parse_endpoint_slice(root), "slices", lambda part: (part.namespace, part.name),
    ),
    ObjectKind(
        "ServiceAccount", ("v1",), "serviceaccounts", ServiceAccount, lambda root, _: parse_service_account(root),
        "service_accounts", lambda account: (account.namespace, account.name), watch=Watch.FOR_REPORTS,
    ),
    ObjectKind(
        "Node", ("v1",), "nodes", Node, lambda root, _: parse_node(root),
        "nodes", lambda node: node.name, namespaced=False,
    ),
    _own(NAMESPACED_KIND, "tasknetworkpolicies", namespaced=True),
    _own(CLUSTER_KIND, "clustertasknetworkpolicies", namespaced=False),
    ObjectKind(
        BINDING_KIND, (API_VERSION,), "taskidentitybindings", TaskIdentityBinding,
        lambda root, _: parse_binding(root), "bindings", lambda binding: binding.name,
        namespaced=False, ours=True, kept=True,
    ),
    ObjectKind(
        NETWORK_POLICY[1], NETWORK_POLICY[:1], "networkpolicies", NetworkPolicy,
        lambda root, _: parse_network_policy(root), "network_policies", lambda policy: policy.ref,
        watch=Watch.NETWORK_POLICY,
    ),
)  # fmt: skip

BY_VERSION_AND_KIND = {(version, each.kind): each for each in OBJECT_KINDS for version in each.versions}
BY_KIND = {each.kind: each for each in OBJECT_KINDS}
BY_VALUE = {each.value: each for each in OBJECT_KINDS}
"""A type of value stands in one table, under one kind of key, whatever kinds of objects it is read from."""
