"""Names that questions ask for, held against those that are known: a typo must not look like good news. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.cluster import Cluster
from agent.model.node_state import View
from agent.model.selector import id_matches
from agent.outputs.records import Filter, pod_text

_SHOWN = 10


def unknown_names(wanted: Filter, view: View, cluster: Cluster) -> str:
    """A sentence on the first name or pattern that nothing known here has; "" where all have been heard of."""
    rows, identities = view.state.endpoints.values(), view.totals.identities
    pods = {(row.namespace, row.pod) for row in rows if row.pod}
    texts = {pod_text(wanted.pod, *pod) for pod in pods}
    namespaces = {*cluster.namespaces, *(row.namespace for row in identities), *(row.namespace for row in rows)}
    dags = {*(row.dag_id for row in identities), *(row.dag_id for row in rows)}
    tasks = {*(row.task_id for row in identities), *(row.task_id for row in rows)}
    for noun, asked, known in (
        ("namespace", wanted.namespace, namespaces),
        ("DAG", wanted.dag, dags),
        ("task", wanted.task, tasks),
        ("pod", wanted.pod, texts),
    ):
        if asked and not any(id_matches(asked, name) for name in known):
            return f"no such {noun} is known here: {asked!r} (known: {_listed(known)})"
    return ""


def _listed(names: Iterable[str]) -> str:
    found = sorted(name for name in names if name)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (", ".join(found[:_SHOWN]) or "none") + more
