"""Alert rules, dashboards and the metrics themselves, judged by promtool (`make rules`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from agent.outputs.metrics import Metrics
from scripts.dashboards import DASHBOARDS
from tests.unit.seen import VIEW, flow

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
VARIABLES = {"$__rate_interval": "5m", "$__range": "6h", "$namespace": ".*", "$node": ".*", "$dag": "sales"}
OTHERS = {"up", "process_cpu_seconds_total"}


def promtool(*words: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        [os.environ["PROMTOOL"], *words], input=stdin, cwd=RULES.parent, capture_output=True, check=False
    )
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, said
    return said


def exposition() -> bytes:
    """What an agent that has something of everything serves."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, lambda: VIEW, series=100)
    metrics.flows([flow()])
    return generate_latest(registry)


def rules() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> list[tuple[str, str]]:
    return [
        (f"{dashboard.name}: {panel.title}", expression)
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for expression in panel.queries.values()
    ]


def test_the_rules_are_valid_and_do_what_their_tests_say() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", str(RULES))
    promtool("test", "rules", "tests.yaml")


def test_every_alert_fires_in_a_test_and_has_a_runbook() -> None:
    cases = yaml.safe_load((RULES.parent / "tests.yaml").read_text())["tests"]
    fires = {each["alertname"] for case in cases for each in case["alert_rule_test"] if each["exp_alerts"]}
    alerts = {str(rule["alert"]) for rule in rules()}
    assert fires == alerts
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert set(headings) == alerts
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{str(rule['alert']).lower()}"  # type: ignore[index]


@pytest.mark.parametrize(("where", "expression"), queries())
def test_a_dashboards_query_is_valid(where: str, expression: str, tmp_path: Path) -> None:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, where
    rule = {"groups": [{"name": "a", "rules": [{"record": "a:b", "expr": expression}]}]}
    (tmp_path / "rules.yaml").write_text(json.dumps(rule))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


def test_rules_and_dashboards_ask_for_metrics_that_are_there() -> None:
    text = exposition().decode()
    served = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    served |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\w+) histogram", text, re.MULTILINE)}
    asked = {str(rule["expr"]) for rule in rules()} | {expression for _, expression in queries()}
    names = {name for each in asked for name in re.findall(r"\b(?:dagwall|process)_\w+|\bup\b", each)}
    assert names - OTHERS <= served
    assert len(names) > 20


def test_the_metrics_are_as_promtool_wants_them() -> None:
    promtool("check", "metrics", stdin=exposition())
