"""A namespace that cannot be read is not taken for unmanaged: it stays what it was, or its pods are pending (L2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.model.policy import DefaultPosture
from tests.unit.fake_api import FakeApi
from tests.unit.test_lying_api import Reading

MANAGED: dict[str, Any] = {
    "labels": {"dagwall.io/managed": "true", "team": "a"},
    "metadata": {"annotations": {"dagwall.io/default-posture": "deny", "other": "x"}},
}
MISTAKES: list[dict[str, Any]] = [
    {**MANAGED, "metadata": {"annotations": {"dagwall.io/default-posture": "denny"}}},
    {**MANAGED, "metadata": {"annotations": {"dagwall.io/baseline": "dsn"}}},
    {"labels": {"dagwall.io/managed": "True"}},
    {"labels": {"dagwall.io/managed": "yes"}},
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_changes_nothing_not_even_for_the_next_agent(tmp_path: Path, mistake: dict[str, Any]) -> None:
    with FakeApi() as api:
        api.put("namespaces", "airflow", **MANAGED)
        reading = Reading(api, tmp_path)
        reading.until(reading.well)
        reading.source.read()
        before = reading.cluster.namespaces["airflow"]
        assert (before.managed, before.default_posture) == (True, DefaultPosture.DENY)
        api.put("namespaces", "airflow", **mistake)
        reading.until(lambda: any("Namespace/airflow" in str(p) for p in reading.source.problems))
        assert reading.cluster.namespaces["airflow"] == before
        reading.source.close()
        reading.again()
        reading.until(reading.well)
        assert reading.cluster.namespaces["airflow"] == before
        assert any("Namespace/airflow" in str(p) for p in reading.source.problems)
        api.put("namespaces", "airflow")
        reading.until(lambda: not reading.cluster.namespaces["airflow"].managed)
        reading.source.close()


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_one_that_was_never_valid_is_unknown(tmp_path: Path, mistake: dict[str, Any]) -> None:
    """And the compiler makes no endpoint of its pods: tests/unit/test_sync_writer.py."""
    with FakeApi() as api:
        api.put("namespaces", "airflow", **mistake)
        reading = Reading(api, tmp_path)
        reading.until(reading.well)
        assert "airflow" not in reading.cluster.namespaces
        assert any("Namespace/airflow" in str(p) for p in reading.source.problems)
        reading.source.close()
