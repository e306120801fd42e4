"""The label function against values that real schedulers sent, and against Airflow's regular expression."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.airflow_labels import safe_label_value


def airflow_make_safe_label_value(text: str) -> str:
    """Airflow's code, as airflow.md 1.2 quotes it."""
    safe = re.sub(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-\.]|[^a-z0-9A-Z]*$", "", text)
    if len(safe) > 63 or text != safe:
        safe = safe[:53] + "-" + hashlib.md5(text.encode()).hexdigest()[:9]
    return safe


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("payments", "payments"),
        ("group_1.load", "group_1.load"),
        ("umsätze_täglich", "umstze_tglich-4b73fc8fa"),
        ("_private_dag", "private_dag-c80656058"),
        ("private_dag-c80656058", "private_dag-c80656058"),
        ("日本語", "-00110af8b"),
        ("___", "-948a13f1e"),
        ("", ""),
    ],
)
def test_recorded_values(text: str, label: str) -> None:
    assert safe_label_value(text) == label


@given(st.text(alphabet=st.one_of(st.sampled_from("aZ09_-. \n+:ä"), st.characters(codec="utf-8")), max_size=90))
def test_equals_airflow(text: str) -> None:
    assert safe_label_value(text) == airflow_make_safe_label_value(text)


def test_long_runs_of_dashes_take_linear_time() -> None:
    assert safe_label_value("a" + "-" * 1_000_000 + "b").startswith("a---")


def test_lone_surrogates_of_json_do_not_raise() -> None:
    assert safe_label_value("a\ud800").startswith("a-")
