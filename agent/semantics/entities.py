"""Which services an entity consists of (P12)."""

from __future__ import annotations

from agent.model.cluster import Cluster, Name, Service

APISERVER: Name = ("default", "kubernetes")

CHART_COMPONENTS = frozenset({"api-server", "pgbouncer", "postgresql", "statsd"})
"""Components of the Airflow chart whose services are part of the entity `airflow` (the chart's templates, 1.18)."""


def chart_namespaces(cluster: Cluster) -> frozenset[str]:
    """Where labels make a service part of the entity `airflow`: anybody may write them elsewhere (P12)."""
    named = cluster.settings.airflow_namespaces
    return frozenset(n.name for n in cluster.namespaces.values() if n.managed) if named is None else frozenset(named)


def of_airflow_chart(service: Service, namespaces: frozenset[str]) -> bool:
    """Is it part of the entity `airflow`?"""
    if service.namespace not in namespaces:
        return False
    labels = dict(service.labels)
    return labels.get("tier") == "airflow" and labels.get("component") in CHART_COMPONENTS
