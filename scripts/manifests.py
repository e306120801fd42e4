"""`make manifests`: from what makes them, writes definitions, daemonset.yaml, dashboards, the PrometheusRule, the
chart's part of all that, and manual pages.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from agent.parse.definitions import definitions
from scripts import dashboards, man

ROOT = Path(__file__).parents[1]
BASE = Path("deploy/base")
PROMETHEUS = Path("deploy/prometheus")
CHART = Path("deploy/helm/dagwall")
CHART_FILES = (
    "deploy/base/daemonset.yaml", "deploy/overlays/hubble-relay/relay.yaml", "deploy/overlays/hubble-relay/ui.yaml",
    "deploy/hubble-certificates.yaml", "deploy/admission-policy.yaml", "deploy/startup-taint.yaml",
    "deploy/podmonitor.yaml", "deploy/detach.yaml",
)  # fmt: skip
"""Objects that the chart's templates read and change by its values: Helm reads nothing outside of a chart."""

_COPIED = "# A copy of {}, made by `make manifests`.\n"
_RULE_HEADER = """\
# For the Prometheus Operator: made by `make manifests` from rules.yaml beside it. Some Prometheus objects select
# rules by label: add yours.
"""
_HEADER = """\
# Dagwall on every node: kubectl apply -f daemonset.yaml
#
# All that it needs, in one file: made by `make manifests` from deploy/base, where it is to be changed. What people
# vary is in deploy/overlays; deploy/startup-taint.yaml keeps tasks off nodes whose agent has not been ready yet.
# `kubectl delete -f` of this file deletes the definitions, and with them every policy; to take the agent away and
# keep them, delete the DaemonSet.
"""


def texts() -> dict[Path, str]:
    """Contents by path from the project's root."""
    crds = {
        BASE / "crds" / f"{definition['spec']['names']['plural']}.yaml": yaml.safe_dump(
            definition, sort_keys=False, width=110
        )
        for definition in definitions()
    }
    base = (ROOT / BASE / "daemonset.yaml").read_text(encoding="utf-8")
    whole = {Path("daemonset.yaml"): "---\n".join([_HEADER, *crds.values(), base])}
    made = crds | whole | dashboards.texts() | {PROMETHEUS / "prometheusrule.yaml": _prometheus_rule()}
    return made | _of_the_chart(made) | man.texts()


def _of_the_chart(made: dict[Path, str]) -> dict[Path, str]:
    """What the chart has of the others: definitions, which Helm installs first, and files."""
    crds = {CHART / "crds" / path.name: text for path, text in made.items() if path.parent == BASE / "crds"}
    boards = {CHART / "files" / path.name: text for path, text in made.items() if path.parent == dashboards.FOLDER}
    rule = PROMETHEUS / "prometheusrule.yaml"
    texts = {Path(name): (ROOT / name).read_text(encoding="utf-8") for name in CHART_FILES} | {rule: made[rule]}
    copies = {CHART / "files" / path.name: _COPIED.format(path) + text for path, text in texts.items()}
    return crds | boards | copies


def _prometheus_rule() -> str:
    """The rules for the Prometheus Operator."""
    rules = yaml.safe_load((ROOT / PROMETHEUS / "rules.yaml").read_text(encoding="utf-8"))
    labels = {"app.kubernetes.io/name": "dagwall"}
    metadata = {"name": "dagwall", "namespace": "dagwall-system", "labels": labels}
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata, "spec": rules}
    return _RULE_HEADER + yaml.safe_dump(rule, sort_keys=False, width=110)


if __name__ == "__main__":
    for path, text in texts().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
