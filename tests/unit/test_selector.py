"""Patterns of ids (P16)."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from agent.model.selector import id_matches


@given(st.text("ab*\n", max_size=8), st.text("ab\n*", max_size=10))
def test_star_is_any_run(pattern: str, value: str) -> None:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert id_matches(pattern, value) == (re.fullmatch(expression, value, re.DOTALL) is not None)


def test_no_pattern_takes_long() -> None:
    """As a regular expression this one would run into the time that any test may take."""
    assert not id_matches("*a" * 120 + "b", "a" * 250)
