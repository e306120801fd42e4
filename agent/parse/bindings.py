"""TaskIdentityBinding, dagwall.io/v1alpha1, into model.binding (I5). As strict as dagwall's policies are."""

from __future__ import annotations

from agent.model.binding import ExclusiveScope, TaskIdentityBinding
from agent.model.policy import Posture
from agent.parse.fields import Field
from agent.parse.selectors import parse_ids, parse_subdomain

BINDING_KIND = "TaskIdentityBinding"


def parse_binding(root: Field) -> TaskIdentityBinding:
    """One binding. Raises InvalidObject."""
    root.mapping("apiVersion", "kind", "metadata", "spec", "status")
    metadata, spec = root.child("metadata"), root.child("spec")
    if not metadata.child("namespace").absent:
        raise metadata.child("namespace").error(f"must be absent: {BINDING_KIND} is cluster-scoped")
    if spec.absent:
        raise spec.error("must be given")
    spec.mapping("namespace", "serviceAccounts", "dagIds", "taskIds", "exclusive", "exclusiveScope", "posture")
    for required in ("namespace", "serviceAccounts", "dagIds"):
        if spec.child(required).absent:
            raise spec.child(required).error("must be given")
    accounts = spec.child("serviceAccounts")
    if accounts.value == []:
        raise accounts.error("must name at least one service account")
    exclusive, scope = spec.child("exclusive").boolean(default=False), spec.child("exclusiveScope")
    if not exclusive and not scope.absent:
        raise scope.error("needs exclusive: true")
    return TaskIdentityBinding(
        name=parse_subdomain(metadata.child("name")),
        namespace=parse_subdomain(spec.child("namespace")),
        service_accounts=tuple(dict.fromkeys(parse_subdomain(item) for item in accounts.items())),
        dag_ids=parse_ids(spec.child("dagIds")),
        task_ids=parse_ids(spec.child("taskIds")),
        exclusive=exclusive,
        exclusive_scope=scope.choice(ExclusiveScope, ExclusiveScope.NAMESPACE),
        posture=spec.child("posture").choice(Posture, Posture.AUDIT),
    )
