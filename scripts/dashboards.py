"""Grafana dashboards of deploy/grafana, from the tables below; `make manifests` writes them.

Source: Grafana's dashboard JSON model (https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path("deploy/grafana")
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WHOLE, _HALF, _QUARTER = 24, 12, 6


@dataclass(frozen=True)
class Panel:
    """One query, or several by legend. `kind`: timeseries, stat or table."""

    title: str
    queries: dict[str, str]  # by legend
    unit: str = "short"
    kind: str = "timeseries"
    width: int = _HALF
    text: str = ""  # what it shows and what is unusual
    limits: tuple[tuple[str, float | None], ...] = (("green", None),)  # colours from a value on


@dataclass(frozen=True)
class Dashboard:
    name: str
    title: str
    variables: dict[str, str]  # label values to choose from, by variable
    panels: tuple[Panel, ...]


_BAD = (("green", None), ("red", 1.0))
_GOOD = (("red", None), ("green", 1.0))

_OVERVIEW = Dashboard(
    "overview", "Dagwall / Overview", {"namespace": "label_values(dagwall_task_bytes_total, namespace)"},
    (
        Panel("Nodes that are ready", {"ready": "sum(dagwall_ready)"}, kind="stat", width=_QUARTER,
              text="Everything known is enforced, and no problem is open."),
        Panel("Nodes that are not", {"not ready": "count(dagwall_ready == 0) or vector(0)"}, kind="stat",
              width=_QUARTER, limits=_BAD),
        Panel("Managed pods", {"managed": 'sum(dagwall_endpoints{state="managed"})'}, kind="stat", width=_QUARTER),
        Panel("Invalid objects", {"invalid": "max(dagwall_invalid_objects)"}, kind="stat", width=_QUARTER,
              limits=_BAD),
        Panel("Denials by DAG",
              {"{{dag_id}}": 'topk(10, sum by (dag_id) (rate(dagwall_task_denied_total{namespace=~"$namespace", '
                             'verdict="deny"}[$__rate_interval])))'}, unit="pps",
              text="Packets and calls that were denied, a second; exact."),
        Panel("What audit would deny",
              {"{{dag_id}}": 'topk(10, sum by (dag_id) (rate(dagwall_task_denied_total{namespace=~"$namespace", '
                             'verdict="audit"}[$__rate_interval])))'}, unit="pps",
              text="Policies with posture audit: what they would deny, a second."),
        Panel("Bytes by DAG",
              {"{{dag_id}}": 'topk(10, sum by (dag_id) (rate(dagwall_task_bytes_total{namespace=~"$namespace"}'
                             "[$__rate_interval])))"}, unit="Bps"),
        Panel("Failed connections by cause",
              {"{{cause}}": 'sum by (cause) (rate(dagwall_task_connection_failures_total{namespace=~"$namespace"}'
                            "[$__rate_interval]))"}, unit="ops",
              text="Connections that policies let pass and that failed."),
        Panel("Names asked for in vain",
              {"{{rcode}}": 'sum by (rcode) (rate(dagwall_task_dns_failures_total{namespace=~"$namespace"}'
                            "[$__rate_interval]))"}, unit="ops"),
        Panel("Peers by bytes",
              {"{{peer}}": 'topk(15, sum by (peer) (increase(dagwall_task_bytes_total{namespace=~"$namespace"}'
                           "[$__range])))"}, unit="bytes", kind="table"),
    ),
)  # fmt: skip

_WHO = 'namespace=~"$namespace", dag_id="$dag"'
_DAG = Dashboard(
    "dag", "Dagwall / One DAG",
    {
        "namespace": "label_values(dagwall_task_bytes_total, namespace)",
        "dag": 'label_values(dagwall_task_bytes_total{namespace=~"$namespace"}, dag_id)',
    },
    (
        Panel("Denied", {"denied": f'sum(increase(dagwall_task_denied_total{{{_WHO}, verdict="deny"}}[$__range]))'},
              kind="stat", width=_QUARTER, limits=_BAD, text="`dagwall why --dag` says why."),
        Panel("Failed connections",
              {"failed": f"sum(increase(dagwall_task_connection_failures_total{{{_WHO}}}[$__range]))"},
              kind="stat", width=_QUARTER, limits=_BAD),
        Panel("Connections", {"connections": f"sum(increase(dagwall_task_connections_total{{{_WHO}}}[$__range]))"},
              kind="stat", width=_QUARTER),
        Panel("Bytes", {"bytes": f"sum(increase(dagwall_task_bytes_total{{{_WHO}}}[$__range]))"}, unit="bytes",
              kind="stat", width=_QUARTER),
        Panel("Denials by task and reason",
              {"{{task_id}} {{reason}} {{direction}} {{verdict}}":
               f"sum by (task_id, reason, direction, verdict) (rate(dagwall_task_denied_total{{{_WHO}}}"
               "[$__rate_interval]))"}, unit="pps"),
        Panel("Failed connections by cause",
              {"{{task_id}} {{cause}} {{detail}}":
               f"sum by (task_id, cause, detail) (rate(dagwall_task_connection_failures_total{{{_WHO}}}"
               "[$__rate_interval]))"}, unit="ops"),
        Panel("Bytes by peer",
              {"{{peer}} {{traffic}}": f"topk(10, sum by (peer, traffic) (rate(dagwall_task_bytes_total{{{_WHO}}}"
                                       "[$__rate_interval])))"}, unit="Bps"),
        Panel("Names asked for in vain",
              {"{{task_id}} {{rcode}}": f"sum by (task_id, rcode) (rate(dagwall_task_dns_failures_total{{{_WHO}}}"
                                        "[$__rate_interval]))"}, unit="ops"),
        Panel("Round trips, 95th percentile",
              {"{{task_id}}": "histogram_quantile(0.95, sum by (task_id, le) (rate("
                              f"dagwall_task_round_trip_seconds_bucket{{{_WHO}}}[$__rate_interval])))"}, unit="s",
              text="Of a sample of 10 connections a second and pod, at their end."),
        Panel("First byte of an answer, 95th percentile",
              {"{{task_id}}": "histogram_quantile(0.95, sum by (task_id, le) (rate("
                              f"dagwall_task_first_byte_seconds_bucket{{{_WHO}}}[$__rate_interval])))"}, unit="s"),
        Panel("Peers",
              {"{{peer}} {{direction}}": f"sum by (peer, direction) (increase(dagwall_task_bytes_total{{{_WHO}}}"
                                         "[$__range]))"}, unit="bytes", kind="table", width=_WHOLE),
    ),
)  # fmt: skip

_NODE = 'node=~"$node"'
_AGENT = Dashboard(
    "agent", "Dagwall / Agents", {"node": "label_values(dagwall_build_info, node)"},
    (
        Panel("Ready", {"{{node}}": f"dagwall_ready{{{_NODE}}}"}, kind="stat", limits=_GOOD),
        Panel("Attached hooks that are missing", {"missing": f"sum(1 - dagwall_hook_attached{{{_NODE}}})"},
              kind="stat", width=_QUARTER, limits=_BAD),
        Panel("Seconds without the API server", {"{{node}}": f"max(dagwall_source_stale_seconds{{{_NODE}}})"},
              unit="s", kind="stat", width=_QUARTER, limits=(("green", None), ("red", 30.0))),
        Panel("Endpoints by state", {"{{state}}": f"sum by (state) (dagwall_endpoints{{{_NODE}}})"}),
        Panel("Kernel maps", {"{{node}} {{map}}": f"dagwall_map_pressure{{{_NODE}}}"}, unit="percentunit",
              text="Share of entries that is used.", limits=(("green", None), ("red", 0.9))),
        Panel("Change to enforced, 99th percentile",
              {"{{node}}": "histogram_quantile(0.99, sum by (node, le) (rate(dagwall_policy_latency_seconds_bucket"
                           f"{{{_NODE}}}[$__rate_interval])))"}, unit="s"),
        Panel("Pending pods, 99th percentile",
              {"{{node}}": "histogram_quantile(0.99, sum by (node, le) (rate(dagwall_pending_seconds_bucket"
                           f"{{{_NODE}}}[$__rate_interval])))"}, unit="s",
              text="How long nothing was let out of a pod that nobody knew."),
        Panel("Losses by reason", {"{{node}} {{reason}}": f"rate(dagwall_losses_total{{{_NODE}}}[$__rate_interval])"},
              unit="ops", text="Verdicts are not affected; docs/runbooks.md#dagwalllosses."),
        Panel("Revisions that wait", {"{{node}}": f"dagwall_policy_revision{{{_NODE}}} - "
                                                  f"dagwall_policy_programmed_revision{{{_NODE}}}"}),
        Panel("Memory", {"{{node}}": f"dagwall_resident_bytes{{{_NODE}}}"}, unit="bytes",
              limits=(("green", None), ("red", 430e6))),
        Panel("CPU", {"{{node}}": f"rate(process_cpu_seconds_total{{{_NODE}}}[$__rate_interval])"},
              unit="percentunit"),
        Panel("Versions", {"{{node}} {{version}} {{kernel}} bcc {{bcc}}": f"dagwall_build_info{{{_NODE}}}"},
              kind="table"),
        Panel("What kernels lack", {"{{node}} {{feature}}": f"dagwall_feature{{{_NODE}}} == 0"}, kind="table"),
    ),
)  # fmt: skip

DASHBOARDS = (_OVERVIEW, _DAG, _AGENT)


def texts() -> dict[Path, str]:
    """Contents by path from the project's root."""
    return {
        FOLDER / f"{each.name}.json": json.dumps(_document(each), indent=1, ensure_ascii=False) + "\n"
        for each in DASHBOARDS
    }


def _document(dashboard: Dashboard) -> dict[str, Any]:
    panels, x, y, row = [], 0, 0, 0
    for number, panel in enumerate(dashboard.panels, 1):
        height = 4 if panel.kind == "stat" else 8
        if x + panel.width > _WHOLE:
            x, y, row = 0, y + row, 0
        panels.append(_panel(panel, number) | {"gridPos": {"x": x, "y": y, "w": panel.width, "h": height}})
        x, row = x + panel.width, max(row, height)
    return {
        "uid": f"dagwall-{dashboard.name}", "title": dashboard.title, "tags": ["dagwall"], "schemaVersion": 39,
        "editable": False, "refresh": "1m", "time": {"from": "now-6h", "to": "now"}, "timezone": "",
        "links": [
            {"type": "dashboards", "tags": ["dagwall"], "title": "Dagwall", "keepTime": True, "asDropdown": True}
        ],
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            *(_variable(name, query) for name, query in dashboard.variables.items()),
        ]},
        "panels": panels,
    }  # fmt: skip


def _variable(name: str, query: str) -> dict[str, Any]:
    many = name != "dag"
    return {
        "name": name, "type": "query", "datasource": _SOURCE, "refresh": 2, "sort": 1, "multi": many,
        "includeAll": many, "allValue": ".*" if many else None, "query": {"query": query, "refId": name},
        "definition": query,
    }  # fmt: skip


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    table = panel.kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": expression, "legendFormat": legend,
            "instant": table or panel.kind == "stat", "range": panel.kind == "timeseries",
            "format": "table" if table else "time_series",
        }
        for place, (legend, expression) in enumerate(panel.queries.items())
    ]  # fmt: skip
    steps = [{"color": color, "value": value} for color, value in panel.limits]
    found: dict[str, Any] = {
        "id": number, "type": panel.kind, "title": panel.title, "datasource": _SOURCE, "targets": targets,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []
        },
    }  # fmt: skip
    if panel.text:
        found["description"] = panel.text
    if table:
        hidden = {"Time": True, "__name__": True, "instance": True, "job": True, "container": True, "endpoint": True}
        found["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
        found["options"] = {"sortBy": [{"displayName": "Value", "desc": True}]}
    return found
