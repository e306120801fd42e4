"""The CustomResourceDefinitions of dagwall's kinds: names, columns, and the schemas of agent.parse.schema."""

from __future__ import annotations

from agent.parse.bindings import BINDING_KIND
from agent.parse.object_kinds import BY_KIND
from agent.parse.policies import CLUSTER_KIND, NAMESPACED_KIND
from agent.parse.schema import GROUP, VERSION, binding_spec, policy_spec, status
from agent.parse.schema_words import Schema, judged

_ACCEPTED = ("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status', "Is it valid?")
_PROGRAMMED = (
    "Programmed", "string", '.status.conditions[?(@.type=="Programmed")].status', "Is it in force on every node?"
)  # fmt: skip


def _policy(kind: str, short: str, *, cluster: bool) -> Schema:
    scope = "every namespace" if cluster else "its namespace"
    return _definition(
        (kind, short),
        [
            ("Posture", "string", ".spec.posture", "audit or enforce"),
            ("DAGs", "string", ".spec.subject.dagIds", "DAGs that it selects"),
            _ACCEPTED,
            _PROGRAMMED,
            ("Endpoints", "integer", ".status.endpoints", "Pods that it selects"),
        ],
        f"{kind} defines what Airflow tasks of {scope} may talk to, by who they are.",
        cluster=cluster,
        spec=policy_spec(cluster=cluster),
        status=status("Pods that it selects."),
    )


def _definition(
    names: tuple[str, str],
    columns: list[tuple[str, str, str, str]],
    text: str,
    *,
    cluster: bool,
    **parts: Schema,
) -> Schema:
    """`names`: kind, and short. `parts`: spec and status."""
    kind, short = names
    plural = BY_KIND[kind].plural
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster" if cluster else "Namespaced",
            "names": {
                "kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(),
                "shortNames": [short], "categories": ["dagwall"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": of, "jsonPath": path, **({"description": text} if text else {})}
                        for name, of, path, text in (*columns, ("Age", "date", ".metadata.creationTimestamp", ""))
                    ],
                    "schema": {
                        "openAPIV3Schema": judged(
                            text, ("spec",),
                            apiVersion={"type": "string"}, kind={"type": "string"}, metadata={"type": "object"},
                            **parts,
                        )
                    },
                }
            ],
        },
    }  # fmt: skip


def definitions() -> tuple[Schema, ...]:
    """All of them, as deploy/crds holds them."""
    return (
        _policy(NAMESPACED_KIND, "tnp", cluster=False),
        _policy(CLUSTER_KIND, "ctnp", cluster=True),
        _definition(
            (BINDING_KIND, "tib"),
            [
                ("Namespace", "string", ".spec.namespace", "The service accounts' namespace"),
                ("Accounts", "string", ".spec.serviceAccounts", "Whose claims it is about"),
                ("DAGs", "string", ".spec.dagIds", "DAGs that they may claim"),
                ("Posture", "string", ".spec.posture", "audit or enforce"),
                _ACCEPTED,
                _PROGRAMMED,
            ],
            f"{BINDING_KIND} defines which service accounts may run which DAGs and tasks.",
            cluster=True,
            spec=binding_spec(),
            status=status("Pods that it is about."),
        ),
    )
