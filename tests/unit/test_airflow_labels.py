"""The label function against values that real schedulers sent, and against Airflow's regular expression."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.airflow_labels import may_be_hashed, might_stand_for, safe_label_value
from agent.model.selector import id_matches


def airflow_make_safe_label_value(text: str) -> str:
    """Airflow's code, as docs/airflow.md 2 describes it."""
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


IDS = st.text(st.sampled_from("ab_-.é"), min_size=1, max_size=70)


@given(IDS, st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), max_size=3))
def test_a_pattern_that_matches_the_id_might_match_its_hashed_label(text: str, spans: list[tuple[int, int]]) -> None:
    """I1: whatever parts of the id are left open."""
    label, pattern = safe_label_value(text), text
    for a, b in spans:
        first, last = sorted((min(a, len(pattern)), min(b, len(pattern))))
        pattern = f"{pattern[:first]}*{pattern[last:]}"
    assert id_matches(pattern, text)
    if label != text:
        assert may_be_hashed(label)
        assert might_stand_for(label, pattern)


@pytest.mark.parametrize(
    ("label", "pattern", "might"),
    [
        ("private_dag-c80656058", "*_prod", False),
        ("private_prod-c80656058", "*_prod", True),
        ("private_prod-c80656058", "sales_*", False),
        (safe_label_value("x" * 100 + "_prod"), "*_prod", True),
        (safe_label_value("x" * 100 + "_prod"), "y*", False),
        ("umstze_tglich-4b73fc8fa", "umsätze_*", True),
    ],
)
def test_what_might_match_is_no_more_than_that(label: str, pattern: str, might: bool) -> None:
    assert might_stand_for(label, pattern) == might
